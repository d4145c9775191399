"""Checks of the tables: vacuum, dead rows, indexes, policies, partitions, sizes, and rows that wait for somebody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import partitions
from rwriter.cli._doctor._findings import PARTS, TABLES, Finding, Patient, judged
from rwriter.schema import metadata
from rwriter.store import TableSize, table_sizes

MANY_DEAD: Final = 40_000
"""Dead rows of a table that a vacuum should have taken: twice the number at which it is to begin."""
MANY_ROWS: Final = 50_000_000
"""Requests in plain tables that DELETE would take an hour and more to thin out: partitions are dropped in a second."""
STALE: Final = timedelta(hours=1)
"""Time after which a request in progress has probably lost its process."""
AHEAD: Final = timedelta(days=8)
"""Least time for which partitions should be there: another week, where they are weeks."""
MANY_LETTERS: Final = 10_000
USED_BY: Final = 1_000
"""Inserted rows after which an index that nothing has used is worth a word."""

_TABLES: Final = f"""
    WITH {PARTS}
    SELECT c.oid::regclass::text AS part, coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead,
        EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS o
                WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean) AS off,
        c.relrowsecurity AS guarded
    FROM parts JOIN pg_class c ON c.oid = parts.oid LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'p') ORDER BY part
"""  # noqa: S608 -- our own words

_OFF: Final = """
    SELECT name FROM pg_settings WHERE name IN ('autovacuum', 'track_counts') AND setting = 'off' ORDER BY name
"""

_INDEXES: Final = f"""
    WITH {PARTS}
    SELECT i.indexrelid::regclass::text AS index, parts.name AS "table", x.relname::text AS bare, i.indisvalid AS valid,
        s.idx_scan = 0 AND NOT i.indisunique AND t.n_tup_ins >= :rows AS unused,
        EXISTS (SELECT FROM pg_inherits WHERE inhrelid = i.indexrelid) AS attached,
        EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid) AS building,
        pg_relation_size(i.indexrelid) AS size
    FROM parts JOIN pg_index i ON i.indrelid = parts.oid JOIN pg_class x ON x.oid = i.indexrelid
    LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = i.indexrelid
    LEFT JOIN pg_stat_all_tables t ON t.relid = i.indrelid
    ORDER BY 1
"""  # noqa: S608 -- our own words

_STALE: Final = """
    SELECT count(*) AS rows, extract(epoch FROM now() - min(coalesce(started_at, created_at)))::bigint AS oldest
    FROM {requests}
    WHERE created_by IS NOT NULL AND state IN ('processing', 'claimed', 'pending') AND state = 'processing'
        AND service_tier = 'priority' AND coalesce(started_at, created_at) < now() - CAST(:age AS interval)
"""

_LETTERS: Final = "SELECT count(*) AS rows FROM (SELECT FROM {letters} LIMIT :most) AS letters"


async def vacuum(patient: Patient) -> list[Finding]:
    """Look whether autovacuum runs, whether it keeps up, and whether policies may hide rows."""
    rows = await patient.ask(_TABLES)
    off = [row["name"] for row in await patient.ask(_OFF)]
    told = f"{' and '.join(off)} is off in this server: turn it on" if off else ""
    parts = ", ".join(row["part"] for row in rows if row["off"])
    told = told or (f"it is off for {parts}: ALTER TABLE ... RESET (autovacuum_enabled)" if parts else "")
    dead = [row for row in rows if row["dead"] > MANY_DEAD and row["dead"] * 5 > row["live"]]
    bloated = ", ".join(f"{row['part']} has {row['dead']:,} dead rows beside {row['live']:,}" for row in dead)
    fix = "VACUUM it, and look in pg_stat_activity for transactions that are open for long"
    guarded = ", ".join(row["part"] for row in rows if row["guarded"])
    hidden = f"{guarded} has policies, which hide rows from readers and refuse records: exempt this role (BYPASSRLS)"
    return [
        judged("autovacuum", "on", told),
        judged("dead rows", "few", f"{bloated}: {fix}" if dead else None),
        judged("row security", "off", hidden if guarded else None),
    ]


async def indexes(patient: Patient) -> Finding:
    """Look for indexes that are broken, and for those of others that cost every record and serve no query."""
    ours = {str(index.name) for table in TABLES for index in metadata.tables[table].indexes}
    rows = await patient.ask(_INDEXES, rows=USED_BY)
    broken = [row["index"] for row in rows if not row["valid"] and not row["building"]]
    if broken:
        told = (
            f"{', '.join(broken)} is not valid, and costs every record: DROP INDEX CONCURRENTLY, then `rwriter migrate`"
        )
        return Finding("indexes", "fail", told)
    unused = [row for row in rows if row["unused"] and row["bare"] not in ours and not row["attached"]]
    names = ", ".join(f"{row['index']} ({row['size'] >> 20:,} MiB)" for row in unused)
    told = f"{names} is not rwriter's, and no query has used it: DROP INDEX CONCURRENTLY if none will"
    return judged("indexes", "all are valid", told if unused else None)


async def ahead(engine: AsyncEngine) -> Finding | None:
    """Look whether partitions are made for the days to come; ``None`` for plain tables."""
    if await partitions.variant(engine) in {"plain", None}:
        return None
    found = await partitions.listing(engine)
    now = datetime.now(UTC)
    left = [each for each in found if each.state != "attached"]
    if left:
        told = f"{len(left)} are half made or half dropped: run `rwriter partitions ensure`, and `drop` once more"
        return Finding("partitions", "warn", told)
    end = max((each.end for each in found), default=now)
    told = (
        f"the last one ends {end:%Y-%m-%d %H:%M} UTC: run `rwriter partitions ensure` daily, or Upkeep(partitions=...)"
    )
    return judged("partitions", f"made until {end:%Y-%m-%d}", told if end - now < AHEAD else None)


async def sizes(engine: AsyncEngine, *, partitioned: bool) -> Finding:
    """Tell how large the tables are."""
    async with engine.connect() as connection:
        found = await table_sizes(connection)
    told = ", ".join(f"{each.table} {_size(each)} of {each.rows:,} rows" for each in found)
    large = not partitioned and any(each.rows > MANY_ROWS for each in found)
    return judged("sizes", told, f"{told}: purge, and move to partitioned tables" if large else None)


def _size(size: TableSize) -> str:
    return f"{(size.table_bytes + size.index_bytes) >> 20:,} MiB"


async def waiting(patient: Patient) -> list[Finding]:
    """Look for requests whose process died, and for dead letters that nobody has looked at."""
    names: dict[str, Any] = {"requests": patient.name("requests"), "letters": patient.name("dead_letters")}
    (stale,) = await patient.ask(_STALE.format(**names), age=STALE)
    (letters,) = await patient.ask(_LETTERS.format(**names), most=MANY_LETTERS)
    hours = int(stale["oldest"] or 0) // 3_600
    stuck = f"{stale['rows']} are in progress, the oldest for {hours} h: run `rwriter reap --older-than 1h`"
    number = f"{MANY_LETTERS:,} or more" if letters["rows"] == MANY_LETTERS else str(letters["rows"])
    refused = f"{number} wait: see why with `rwriter dead-letters ls`, mend it, then `rwriter dead-letters replay`"
    return [
        judged("stale requests", "none", stuck if stale["rows"] else None),
        judged("dead letters", "none", refused if letters["rows"] else None),
    ]


_UNDELETABLE: Final = """
    SELECT name FROM unnest(CAST(:names AS text[]), CAST(:resolved AS text[])) AS t (name, resolved)
    WHERE NOT has_table_privilege(to_regclass(resolved), 'DELETE')
"""


async def undeletable(patient: Patient) -> Sequence[str]:
    """Return the tables that this role may not delete from."""
    return [row["name"] for row in await patient.ask(_UNDELETABLE)]

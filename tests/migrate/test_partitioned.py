"""The partitioned variant of the tables: made by the same revisions, known from the catalogue, checked, taken back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rwriter import RwriterError, migrate, partitions
from rwriter.migrate import SchemaDrift
from rwriter.schema import HEAD_REVISION, first_id
from tests.migrate.test_drift import CONTRACT, LZ4_COLUMNS
from tests.migrate.test_revisions import EVERYTHING, IN_ORDER
from tests.support.migrations import alembic, column, engine_on, execute, rows

PARTITION_OF_NOW = """
    SELECT c.relname::text FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid
    WHERE inhparent = $1::text::regclass AND pg_get_expr(relpartbound, c.oid) LIKE '%FROM (''' || $2 || ''')%'
"""
"""The partition of a table whose ids begin with ``$2``."""

TABLES = ["requests", "request_templates"]


def start_of(moment: datetime, period: str) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=midnight.weekday() if period == "week" else 0)


@pytest.mark.parametrize("period", ["week", "day"])
async def test_the_partitions_begin_with_weeks_or_days_and_reach_four_weeks_ahead(
    empty_database: str, period: Any
) -> None:
    await migrate.upgrade(empty_database, partitioned=period)
    now = datetime.now(UTC)
    for table in TABLES:
        names = await column(empty_database, PARTITION_OF_NOW, table, str(first_id(start_of(now, period))))
        assert names == [f"{table}_{start_of(now, period):%Y%m%d}"]
    async with engine_on(empty_database) as engine:
        assert await partitions.variant(engine) == period
    bounds = await column(
        empty_database,
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition AND relname LIKE 'requests\\_%'"
        " AND relkind = 'r' ORDER BY relname",
    )
    step = timedelta(days=7 if period == "week" else 1)
    first = start_of(now, period) - step
    expected = [(first_id(first + n * step), first_id(first + (n + 1) * step)) for n in range(len(bounds))]
    assert bounds == [f"FOR VALUES FROM ('{low}') TO ('{high}')" for low, high in expected]
    assert first + len(bounds) * step >= now + timedelta(days=28)


async def test_check_and_alembic_check_find_no_drift(empty_database: str) -> None:
    alembic("-x", "partitioned=day", "upgrade", "head", url=empty_database)
    await migrate.check(empty_database)
    alembic("check", url=empty_database)
    assert await migrate.current(empty_database) == HEAD_REVISION


async def test_a_second_upgrade_need_not_say_it_again_and_another_variant_is_refused(empty_database: str) -> None:
    await migrate.upgrade(empty_database, "rwriter_0001", partitioned="week", schema="apart")
    await migrate.upgrade(empty_database, schema="apart")
    await migrate.upgrade(empty_database, schema="apart", partitioned="week")
    with pytest.raises(RwriterError, match="the tables are there and are partitioned by week"):
        await migrate.upgrade(empty_database, schema="apart", partitioned="day")
    await migrate.check(empty_database, schema="apart")
    await migrate.upgrade(empty_database)
    with pytest.raises(RwriterError, match="the tables are there and are plain"):
        await migrate.upgrade(empty_database, partitioned="week")
    assert await column(empty_database, "SELECT count(*) FROM pg_partitioned_table") == [2]


async def test_a_variant_that_there_is_not_is_refused(empty_database: str) -> None:
    with pytest.raises(ValueError, match="partitioned must be one of week, day, not 'month'"):
        await migrate.upgrade(empty_database, partitioned="month")  # type: ignore[arg-type]
    done = alembic("-x", "partitioned=month", "upgrade", "head", url=empty_database, code=1)
    assert "partitioned must be one of week, day, not 'month'" in done.stderr


async def test_every_revision_goes_down_and_up_again(empty_database: str) -> None:
    seen = []
    for script in IN_ORDER:
        await migrate.upgrade(empty_database, script.revision, partitioned="week")
        seen.append(await rows(empty_database, EVERYTHING))
    for script, before in zip(IN_ORDER[:0:-1], seen[-2::-1], strict=True):
        await migrate.downgrade(empty_database, str(script.down_revision))
        assert await rows(empty_database, EVERYTHING) == before
    await migrate.downgrade(empty_database)
    left = await rows(empty_database, EVERYTHING)
    assert all("rwriter_alembic_version" in name for _, name, _ in left), left


async def test_the_script_of_sql_makes_the_same_tables(empty_database: str) -> None:
    await execute(empty_database, migrate.upgrade_sql(schema="scripted", partitioned="week"))
    await migrate.check(empty_database, schema="scripted")
    async with engine_on(empty_database) as engine:
        assert await partitions.variant(engine, schema="scripted") == "week"


@pytest.mark.parametrize("table", TABLES)
async def test_columns_compression_triggers_and_vacuum_are_the_plain_ones_in_every_partition(
    empty_database: str, table: str
) -> None:
    await migrate.upgrade(empty_database, partitioned="week")
    ((partition,),) = await rows(
        empty_database, PARTITION_OF_NOW, table, str(first_id(start_of(datetime.now(UTC), "week")))
    )
    found = await rows(
        empty_database,
        """
        SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum
        """,
        partition,
    )
    contract = CONTRACT[table] | {"id": ("uuid", True, "rwriter_new_id()")}
    assert {name: tuple(rest) for name, *rest in found} == contract
    ((heap, toast),) = await rows(
        empty_database,
        "SELECT c.reloptions, t.reloptions FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid "
        "WHERE c.oid = $1::text::regclass",
        partition,
    )
    assert "autovacuum_vacuum_scale_factor=0" in heap
    assert "autovacuum_vacuum_insert_threshold=300000" in toast
    triggers = "SELECT tgname::text FROM pg_trigger WHERE tgrelid = $1::text::regclass"
    assert await column(empty_database, triggers, partition) == [f"{table}_touch_updated_at"]
    lz4 = (
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attcompression = 'l' ORDER BY 1"
    )
    assert await column(empty_database, lz4, partition) in (
        [],
        [name for owner, name in LZ4_COLUMNS if owner == table],
    )


async def test_a_row_without_an_id_gets_one_of_now(empty_database: str) -> None:
    await migrate.upgrade(empty_database, partitioned="week")
    await execute(
        empty_database, "INSERT INTO requests (model, created_by) SELECT 'm', 'me' FROM generate_series(1, 9)"
    )
    ids = await column(empty_database, "SELECT id FROM requests")
    assert {each.version for each in ids} == {7}
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP INDEX ix_requests_active", "missing index ix_requests_active of requests"),
        ("ALTER TABLE requests DROP COLUMN error CASCADE", "missing column error of requests"),
        ("DROP TABLE {templates}", "{requests}: one of the two tables of these ids is missing"),
        ("DROP TABLE {templates}, {requests}", "no partition takes ids of now"),
        ("ALTER TABLE requests ALTER id DROP DEFAULT", r"requests.id: default is None, not rwriter_new_id\(\)"),
    ],
)
async def test_check_names_what_is_missing(empty_database: str, damage: str, named: str) -> None:
    await migrate.upgrade(empty_database, partitioned="week")
    week = start_of(datetime.now(UTC), "week")
    of_now = {"templates": f"request_templates_{week:%Y%m%d}", "requests": f"requests_{week:%Y%m%d}"}
    await execute(empty_database, damage.format(**of_now))
    with pytest.raises(SchemaDrift, match=named.format(**of_now)):
        await migrate.check(empty_database)


def test_a_services_own_alembic_hears_nothing_of_partitions() -> None:
    for name in ("requests_20261123", "request_templates_20261123", "requests"):
        assert not migrate.include_name(name, "table")
    for name in ("requests_archive", "requests_2026", "my_requests_20261123"):
        assert migrate.include_name(name, "table")

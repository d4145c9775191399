"""Partitions made ahead of the ids that will need them, beside a writer that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter._validation import aware
from rwriter.engines import EngineProvider
from rwriter.partitions._catalog import (
    Catalog,
    Child,
    Partition,
    engine_of,
    partitioned,
    partitions_in,
    quoted,
)
from rwriter.schema import PARTITIONED_TABLES, first_id

AHEAD: Final = timedelta(days=28)

_TURN: Final = 7_220_514_906_331_187_202
_LOCK_TIMEOUT: Final = "5s"


async def ensure(
    engines: EngineProvider | AsyncEngine,
    *,
    ahead: timedelta = AHEAD,
    since: datetime | None = None,
    schema: str | None = None,
) -> list[Partition]:
    """Make the partitions that are missing from now until ``ahead`` from now, and return those that were made.

    A new partition is as long as the latest one. What is missing between that and now is made, too, and from ``since``
    on where that is given, for rows of the past. Writers go on meanwhile: a table is made beside the others and
    attached when it is ready. Safe to call from many processes at once. The role must own the tables.

    Raises ``RwriterError`` where the tables are not partitioned.
    """
    if ahead < timedelta(0):
        msg = f"ahead must be at least 0, not {ahead}"
        raise ValueError(msg)
    if since is not None:
        aware("since", since)
    engine, name = engine_of(engines, schema)
    now = datetime.now(UTC)
    begin, until = min(now, since or now), now + ahead
    async with engine.connect() as connection:
        if not list(_missing(await partitioned(connection, name), begin, until)):
            return []
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN})")
        catalog = await partitioned(connection, name)
        made = list(_missing(catalog, begin, until))
        for parent, start, end in made:
            await _make(connection, catalog, parent, start, end)
        starts = {start for _, start, _ in made}
        return [each for each in partitions_in(await partitioned(connection, name)) if each.start in starts]


def _missing(catalog: Catalog, begin: datetime, until: datetime) -> Iterator[tuple[str, datetime, datetime]]:
    """Yield the table and the bounds of each partition that is to be made."""
    found = partitions_in(catalog)
    step = catalog.step
    start = found[-1].end
    # in steps from the latest partition, which began with a week or a day
    start -= -((begin - start) // step) * step if begin < start else timedelta(0)
    while start <= until:
        for parent in PARTITIONED_TABLES:
            if not any(_overlap(child, start, start + step) for child in catalog.of(parent)):
                yield parent, start, start + step
        start += step


def _overlap(child: Child, start: datetime, end: datetime) -> bool:
    if child.first is None or child.end is None:
        return False
    return child.first < first_id(end) and first_id(start) < child.end


async def _make(connection: AsyncConnection, catalog: Catalog, parent: str, start: datetime, end: datetime) -> None:
    schema = catalog.schemas[parent]
    whole, part = quoted(connection, schema, parent), quoted(connection, schema, f"{parent}_{start:%Y%m%d}")
    # PARTITION OF would lock the whole table against writers, and queue them behind whatever uses it
    await connection.exec_driver_sql(f"CREATE TABLE {part} (LIKE {whole} INCLUDING ALL)")
    settings = catalog.of(parent)[-1].settings
    if settings:
        words = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
        await connection.exec_driver_sql(f"ALTER TABLE {part} SET ({words})")
    bounds = f"FROM ('{first_id(start)}') TO ('{first_id(end)}')"
    await connection.exec_driver_sql(f"ALTER TABLE {whole} ATTACH PARTITION {part} FOR VALUES {bounds}")

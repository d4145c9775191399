"""Measure what partitions cost where records are stored, and what they save where a week of them goes.

Storing: the same records through the writer into plain and into partitioned tables, in turns. Removing: a million
requests of one past week with their templates, by ``DELETE`` in two statements from plain tables and by dropping their
partition, each beside a writer that stores 200 records a second and waits for each to be committed.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from bench.database import Database, used
from bench.report import percentiles, ratios, rotated, spread, summary
from bench.traffic import Bodies, Traffic, records
from rwriter import RequestsWriter, migrate, partitions

COUNT: Final = 5_000
ROUNDS: Final = 5
ROWS: Final = 1_000_000
RATE: Final = 200
CALM: Final = 10.0
"""Seconds of live traffic before the removal."""

VARIANTS: Final[tuple[Literal["week"] | None, ...]] = (None, "week")

# of last week, which is over; the bodies, of a kilobyte together, are hexadecimal, and do not compress
_FILL: Final = """
CREATE UNLOGGED TABLE pool AS SELECT k, string_agg(md5((100 * k + n)::text), '') AS words
    FROM generate_series(0, 4999) k, generate_series(1, 32) n GROUP BY k;
CREATE UNLOGGED TABLE ids AS SELECT n, at,
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
     || substr(md5(n::text), 4, 15))::uuid AS id
FROM (
    SELECT n, (timestamp '{week}' + interval '1 hour' + n * interval '6 days' / {rows}) AT TIME ZONE 'UTC' AS at
    FROM generate_series(1, {rows}) AS n
) AS numbered;
INSERT INTO request_templates (id, endpoint, method, path, model, api_key, body, body_byte_size, created_at)
    SELECT id, '', 'POST', '/v1/responses', 'fill', '', left(words, 300), 300, at FROM ids JOIN pool ON k = n % 5000;
INSERT INTO requests (id, template_id, model, state, daemon_id, claimed_at, started_at, completed_at, response_status,
    response_body, response_size, service_tier, created_by, created_at)
    SELECT id, id, 'fill', 'completed', '00000000-0000-0000-0000-000000000000', at, at, at, 200,
        right(words, 700), 700, 'priority', 'fill-' || n % 1000, at FROM ids JOIN pool ON k = n % 5000;
DROP TABLE pool;
DROP TABLE ids;
VACUUM ANALYZE requests, request_templates
"""

_SIZE: Final = """
SELECT sum(pg_total_relation_size(oid)) FROM pg_class
WHERE relkind = 'r' AND relnamespace = '{schema}'::regnamespace
"""


@dataclasses.dataclass(frozen=True)
class Removal:
    """``wal`` counts the removal's bytes and the live writes', ``live_wal`` those of as long a time without it."""

    seconds: float
    wal: int
    live_wal: float
    size: int
    left: int
    left_after_vacuum: int
    calm_ms: Mapping[str, float]
    during_ms: Mapping[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of rows that go."""
    parser.add_argument("--rows", type=int, help=f"requests of the week that goes (default {ROWS}, with --quick 20000)")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Store in turns, then remove from each variant."""
    count, rows = (COUNT // 5, 20_000) if options.quick else (COUNT, ROWS)
    rows = options.rows or rows
    stored = await _storing(url, Traffic().bodies(count), options.rounds)
    removed = {str(variant): await _removing(url, variant, rows) for variant in VARIANTS}
    return stored | {"rows": rows, "removed": {name: dataclasses.asdict(each) for name, each in removed.items()}}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what storing costs, then a line for each way of removing."""
    yield f"partitioned / plain: records a second {spread(result['rate_ratio'])}, WAL {spread(result['wal_ratio'])}"
    yield f"server's processor time {spread(result['cpu_ratio'])}" if result["cpu_ratio"] else "processor time: unknown"
    yield f"{result['rows']:,} requests of one week, beside {RATE} records a second:"
    for name, each in result["removed"].items():
        gone = "DELETE" if name == "None" else "partitions.drop"
        wal = each["wal"] - each["live_wal"]
        yield f"  {gone:<16} {each['seconds']:.2f} s, {wal / 1e6:,.0f} MB of WAL beside the live records'"
        yield (
            f"  {'':<16} {each['size'] / 1e6:,.0f} MB before, {each['left'] / 1e6:,.0f} MB after, "
            f"{each['left_after_vacuum'] / 1e6:,.0f} MB after a vacuum"
        )
        yield f"  {'':<16} live p99 {each['calm_ms']['p99']:.1f} ms before, {each['during_ms']['p99']:.1f} ms meanwhile"


# -- storing


async def _storing(url: str, bodies: Sequence[Bodies], rounds: int) -> dict[str, Any]:
    databases = {variant: Database(url, f"rwriter_bench_{variant or 'plain'}") for variant in VARIANTS}
    found: dict[str | None, list[tuple[float, float, float | None]]] = {variant: [] for variant in VARIANTS}
    for variant, database in databases.items():
        await _make(database, variant)
        await _store(database, bodies)
    for number in range(rounds):
        for variant in rotated(VARIANTS, number):
            found[variant].append(await _store(databases[variant], bodies))
    for database in databases.values():
        await database.execute(f"DROP SCHEMA {database.schema} CASCADE")
        await database.dispose()
    columns = {variant: list(zip(*turns, strict=True)) for variant, turns in found.items()}
    rates, wals, cpus = zip(*(columns[variant] for variant in ("week", None)), strict=True)
    return {
        "rates": {str(variant): summary(columns[variant][0]) for variant in VARIANTS},
        "rate_ratio": ratios(*rates),
        "wal_ratio": ratios(*wals),
        "cpu_ratio": None if None in cpus[0] else ratios(*cpus),
    }


async def _store(database: Database, bodies: Sequence[Bodies]) -> tuple[float, float, float | None]:
    await database.empty()
    fresh = records(bodies)
    # the same connections for all of the turn, or their processes' times would be gone with them
    async with database.engines(2) as engines, RequestsWriter(engines) as writer:
        wal, cpu, began = await database.wal_position(), await database.processor_times(), time.perf_counter()
        for record in fresh:
            await writer.send(record)
        await writer.flush()
        seconds = time.perf_counter() - began
        spent = used(cpu, await database.processor_times())
        wal = await database.wal_position() - wal
    await database.verify(len(fresh))
    return len(fresh) / seconds, wal / len(fresh), spent


async def _make(database: Database, variant: Literal["week"] | None) -> None:
    await database.execute(f"DROP SCHEMA IF EXISTS {database.schema} CASCADE")
    async with database.engine(1) as engine:
        await migrate.upgrade(engine, schema=database.schema, partitioned=variant)


# -- removing


async def _removing(url: str, variant: Literal["week"] | None, rows: int) -> Removal:
    database = Database(url, f"rwriter_bench_{variant or 'plain'}")
    now = datetime.now(UTC)
    week = (now - timedelta(days=now.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    await _make(database, variant)
    try:
        await database.execute(*_FILL.format(week=f"{week - timedelta(weeks=1):%Y-%m-%d}", rows=rows).split(";"))
        await database.checkpoint()
        return await _removed(database, _ways(database, week)[variant])
    finally:
        await database.execute(f"DROP SCHEMA {database.schema} CASCADE")
        await database.dispose()


def _ways(database: Database, week: datetime) -> dict[str | None, Callable[[], Awaitable[Any]]]:
    async def delete() -> None:
        old = [
            f"DELETE FROM {table} WHERE created_at < '{week:%Y-%m-%d}Z'" for table in ("requests", "request_templates")
        ]
        await database.execute(*old)

    async def drop() -> None:
        async with database.engine(2) as engine:
            await partitions.drop(engine, week)

    return {None: delete, "week": drop}


async def _removed(database: Database, remove: Callable[[], Awaitable[Any]]) -> Removal:
    size = await _size(database)
    async with _live_traffic(database) as latencies:
        calm_wal = await database.wal_position()
        await asyncio.sleep(CALM)
        calm, wal, began = list(latencies), await database.wal_position(), time.perf_counter()
        latencies.clear()
        await remove()
        seconds = time.perf_counter() - began
        # as few as a removal of some milliseconds met, and one
        while not latencies:  # noqa: ASYNC110 -- a measurement
            await asyncio.sleep(0.001)
        during, after = list(latencies), await database.wal_position()
    left = await _size(database)
    await database.execute("VACUUM requests, request_templates")
    return Removal(
        seconds=seconds,
        wal=after - wal,
        live_wal=(wal - calm_wal) / CALM * seconds,
        size=size,
        left=left,
        left_after_vacuum=await _size(database),
        calm_ms=percentiles(calm),
        during_ms=percentiles([*during, during[-1]]),
    )


@asynccontextmanager
async def _live_traffic(database: Database) -> AsyncIterator[list[float]]:
    """Store ``RATE`` records a second meanwhile; yields the milliseconds that each took to be committed."""
    latencies: list[float] = []
    bodies = Traffic(seed=2).bodies(500)

    async def one(writer: RequestsWriter, number: int) -> None:
        (record,) = records([bodies[number % len(bodies)]])
        began = time.perf_counter()
        await writer.send(record, wait="committed")
        latencies.append((time.perf_counter() - began) * 1e3)

    async def go(writer: RequestsWriter) -> None:
        began, number = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                group.create_task(one(writer, number))
                number += 1

    async with database.engines(2) as engines, RequestsWriter(engines) as writer:
        traffic = asyncio.create_task(go(writer))
        try:
            yield latencies
        finally:
            traffic.cancel()
            await asyncio.wait({traffic})


async def _size(database: Database) -> int:
    async with database.control() as connection:
        return int((await connection.exec_driver_sql(_SIZE.format(schema=database.schema))).scalar_one())

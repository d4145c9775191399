"""Measure how long writers wait while an upgrade runs beside them.

A database at the first revision is filled. Writers of that release insert at a steady rate, first alone and then beside
the upgrade to head. A pause is the time of one insert from the moment it is due, so that queueing counts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bench.database import SCHEMA, Database, own_database
from bench.report import percentiles, verdict
from rwriter import migrate

ROWS: Final = 1_000_000
RATE: Final = 200
ALONE_SECONDS: Final = 10.0
GOAL: Final = 1.0
WRITERS: Final = 8
FIRST: Final = "rwriter_0001"

# one row in fifty failed, with texts of 200 bytes
FILL: Final = """
INSERT INTO requests (model, state, service_tier, created_by, created_at, response_status, response_body, completed_at,
    error, failed_at)
SELECT 'm', CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'completed' END, 'priority', 'tenant-' || n % 100,
    now() + n * interval '1 ms', 200, repeat('x', 200), now(), '{}', now()
FROM generate_series(1, $1::int) n
"""
INSERT: Final = """
INSERT INTO requests (model, state, service_tier, created_by, response_status, response_body, completed_at)
VALUES ('m', 'completed', 'priority', 'tenant-live', 200, repeat('x', 200), now())
"""


class Writers:
    """Inserts a row each time one is due, over a few connections, and notes how long after that it was there."""

    def __init__(self, connections: list[Any]) -> None:
        self._connections = connections
        self.pauses: list[float] = []

    async def run(self, ended: asyncio.Event) -> None:
        """Insert until ``ended``."""
        began = time.perf_counter()
        due: asyncio.Queue[float] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(self._work(connection, due)) for connection in self._connections]
            for number in itertools.count():
                if ended.is_set():
                    break
                due.put_nowait(began + number / RATE)
                await asyncio.sleep(max(0.0, began + (number + 1) / RATE - time.perf_counter()))
            await due.join()
            for worker in workers:
                worker.cancel()

    async def _work(self, connection: Any, due: asyncio.Queue[float]) -> None:
        while True:
            moment = await due.get()
            await connection.execute(INSERT)
            self.pauses.append(time.perf_counter() - moment)
            due.task_done()


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Write alone, and then beside the upgrade. It is missed where a writer waited longer than the goal."""
    rows = ROWS // 50 if options.quick else ROWS
    async with own_database(url, "rwriter_bench_upgrade") as own:
        await migrate.upgrade(own, FIRST, schema=SCHEMA)
        database = Database(own)
        try:
            async with database.drivers(WRITERS) as connections:
                await connections[0].execute(FILL, rows)
                await connections[0].execute("VACUUM ANALYZE requests")
                alone, _ = await _during(connections, asyncio.sleep(ALONE_SECONDS))
                beside, seconds = await _during(connections, migrate.upgrade(own, schema=SCHEMA))
        finally:
            await database.dispose()
    return {
        "rows": rows,
        "rate": RATE,
        "upgrade_seconds": round(seconds, 2),
        "alone_seconds": percentiles(alone, 4),
        "beside_seconds": percentiles(beside, 4),
        "missed": max(beside) > GOAL,
    }


async def _during(connections: list[Any], work: Any) -> tuple[list[float], float]:
    writers, ended = Writers(connections), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(writers.run(ended))
        # two seconds before, so that every writer is at it
        await asyncio.sleep(2.0)
        started = time.perf_counter()
        await work
        seconds = time.perf_counter() - started
        ended.set()
    return writers.pauses, seconds


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the pauses alone and beside the upgrade."""
    rate, rows, seconds = (result[name] for name in ("rate", "rows", "upgrade_seconds"))
    yield f"{rate} inserts a second beside the upgrade of {rows:,} rows, which took {seconds} s"
    for name in ("alone", "beside"):
        shown = (f"{which} {value * 1000:.1f} ms" for which, value in result[f"{name}_seconds"].items())
        yield f"{name:<7} {', '.join(shown)}"
    yield f"longest pause in seconds: {verdict(result['beside_seconds']['max'], GOAL)}"

"""Measure what ``durability="journal"`` costs beside ``memory``.

Fifty handlers at once, each sending one record after the other, as in a busy gateway: journaled records share commits.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from bench.database import Database
from bench.report import compared, in_rounds, percentiles, spread
from bench.traffic import Bodies, Traffic, records
from rwriter import CompletedRequest, RequestsWriter, Spool

HANDLERS: Final = 50
COUNT: Final = 4_000
ROUNDS: Final = 5
KINDS: Final[dict[str, Literal["off", "normal", "full"] | None]] = {
    "memory": None,
    "journal, fsync=off": "off",
    "journal, fsync=normal": "normal",
    "journal, fsync=full": "full",
}
"""The spool's ``fsync`` by kind; ``None`` is without a journal."""


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take every kind's turn in each round; returns rates as parts of memory's, and how long a ``send`` took."""
    database, count = Database(url), COUNT // 8 if options.quick else COUNT
    bodies = Traffic().bodies(count)
    async with database.tables():
        turns = await in_rounds(KINDS, options.rounds, lambda kind: _turn(database, kind, bodies))
    kinds = compared(
        {kind: [{"rate": count / seconds} for seconds, _ in each] for kind, each in turns.items()}, "memory"
    )
    for kind, each in turns.items():
        kinds[kind]["send_us"] = percentiles([wait * 1e6 for _, waits in each for wait in waits], 1)
    return {"records": count, "handlers": HANDLERS, "kinds": kinds}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each kind."""
    yield f"{result['records']} records of 6 kB from {HANDLERS} handlers; rate as a part of memory's in its round"
    for kind, found in result["kinds"].items():
        sends = f"send p50 {found['send_us']['p50']:,.0f} us, p99 {found['send_us']['p99']:,.0f} us"
        yield f"{kind:22} {spread(found['ratio']):22} {found['rate']['median']:8,.0f}/s  {sends}"


async def _turn(database: Database, kind: str, bodies: Sequence[Bodies]) -> tuple[float, list[float]]:
    """Return the seconds until all records are stored, and those that each ``send`` took."""
    await database.empty()
    left, waits, fsync = iter(records(bodies)), list[float](), KINDS[kind]
    with tempfile.TemporaryDirectory(prefix="rwriter-bench-") as folder:
        journal: Any = {} if fsync is None else {"durability": "journal", "spool": Spool(folder, fsync=fsync)}
        async with database.engines(3) as engines, RequestsWriter(engines, **journal) as writer:
            began = time.perf_counter()
            await asyncio.gather(*(_handler(writer, left, waits) for _ in range(HANDLERS)))
            await writer.flush()
            seconds = time.perf_counter() - began
    await database.verify(len(bodies))
    return seconds, waits


async def _handler(writer: RequestsWriter, left: Iterator[CompletedRequest], waits: list[float]) -> None:
    for record in left:
        began = time.perf_counter()
        await writer.send(record)
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0)

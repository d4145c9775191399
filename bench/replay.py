"""Measure what a replay of the spool takes from live traffic.

Each round stores the same records twice: alone, and beside the replay of a spool that holds more than is replayed
meanwhile. The ratio is taken within a round. Spooled rows are of the same size and kind.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.database import Database
from bench.report import compared, in_rounds, spread, verdict
from bench.traffic import Bodies, Traffic, records
from rwriter import RequestsWriter, Spool

COUNT: Final = 10_000
ROUNDS: Final = 5
GOAL: Final = 0.5
BACKLOG: Final = {"alone": 0, "beside": 2}
"""Spooled records for each live one."""
DEADLINE: Final = 120.0


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take both turns in each round. It is missed below the goal, or where a spool ran empty."""
    database, count = Database(url), COUNT // 5 if options.quick else COUNT
    bodies = Traffic().bodies(count)
    async with database.tables():
        turns = await in_rounds(BACKLOG, options.rounds, lambda kind: _turn(database, bodies, BACKLOG[kind] * count))
    kinds = compared(turns, "alone")
    missed = kinds["beside"]["ratio"]["median"] < GOAL or not kinds["beside"]["left"]["min"]
    return {"live_records": count, "kinds": kinds, "missed": missed}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ratio, the rates, and what is left in the spools."""
    count, (alone, beside) = result["live_records"], (result["kinds"][kind] for kind in BACKLOG)
    yield f"{count} live records of 6 kB beside a spool of {BACKLOG['beside'] * count}"
    ratio = beside["ratio"]
    yield f"live beside a replay / alone   {spread(ratio)}   {verdict(ratio['median'], GOAL, at_least=True)}"
    rates = {"alone": alone["rate"], "beside": beside["rate"], "replayed": beside["replayed"]}
    yield "records a second: " + ", ".join(f"{name} {found['median']:,.0f}" for name, found in rates.items())
    yield f"left in the spool: {spread(beside['left'], 0)}"


async def _turn(database: Database, bodies: Sequence[Bodies], backlog: int) -> dict[str, float]:
    """Return live records a second, records that left the spool meanwhile a second, and those ``left`` in it."""
    await database.empty()
    fresh = records(bodies, owner="live")
    with tempfile.TemporaryDirectory(prefix="rwriter-bench-") as folder:
        spool = await _filled(Path(folder), bodies, backlog)
        # a connection for each flush, and one for the replay
        async with database.engines(3) as engines, RequestsWriter(engines, spool=spool) as writer:
            await _begun(writer, backlog)
            replayed, began = writer.stats.replayed, time.perf_counter()
            for record in fresh:
                await writer.send(record)
            await writer.flush()
            seconds = time.perf_counter() - began
            replayed = writer.stats.replayed - replayed
            left = await spool.count()
        await database.verify(len(fresh), owner="live")
    return {"rate": len(fresh) / seconds, "replayed": replayed / seconds, "left": left}


async def _filled(folder: Path, bodies: Sequence[Bodies], backlog: int) -> Spool:
    spool = Spool(folder, max_bytes=1 << 32, fsync="off")
    await spool.open()
    for start in range(0, backlog, 1_000):
        await spool.put(records([bodies[number % len(bodies)] for number in range(start, min(start + 1_000, backlog))]))
    await spool.aclose()
    return Spool(folder, max_bytes=1 << 32)


async def _begun(writer: RequestsWriter, backlog: int) -> None:
    """Wait until the replay is under way."""
    async with asyncio.timeout(DEADLINE):
        while backlog and not writer.stats.replayed:  # noqa: ASYNC110 -- the account rings no bell
            await asyncio.sleep(0.001)

"""Measure what a replay of the spool takes from live traffic.

Each round stores the same records twice: alone, and beside the replay of a spool that holds more than is replayed
meanwhile. The ratio is taken within a round. Spooled rows are of the same size and kind.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.database import Database
from bench.report import ratios, rotated, spread, summary, verdict
from bench.traffic import Bodies, Traffic, records
from rwriter import RequestsWriter, Spool

COUNT: Final = 10_000
ROUNDS: Final = 5
GOAL: Final = 0.5
BACKLOG: Final = 2
"""Spooled records for each live one."""
DEADLINE: Final = 120.0


@dataclasses.dataclass(frozen=True)
class Turn:
    """``rate``: live records a second; ``replayed``: records that left the spool during them; ``left`` afterwards."""

    rate: float
    replayed: float
    left: int


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take both turns in each round. It is missed below the goal, or where a spool ran empty."""
    database, count = Database(url), COUNT // 5 if options.quick else COUNT
    bodies = Traffic().bodies(count)
    rounds: list[dict[int, Turn]] = []
    async with database.tables():
        await _turn(database, bodies, backlog=count // 4)  # warms files, connections and the interpreter
        for number in range(options.rounds):
            order = rotated((0, BACKLOG * count), number)
            rounds.append({backlog: await _turn(database, bodies, backlog=backlog) for backlog in order})
    alone, beside = ([one[backlog] for one in rounds] for backlog in (0, BACKLOG * count))
    rates = {"alone": [turn.rate for turn in alone], "beside": [turn.rate for turn in beside]}
    ratio = ratios(rates["beside"], rates["alone"])
    return {
        "live_records": count,
        "ratio": ratio,
        "alone_per_second": summary(rates["alone"]),
        "beside_per_second": summary(rates["beside"]),
        "replayed_per_second": summary(turn.replayed for turn in beside),
        "left": [turn.left for turn in beside],
        "missed": ratio["median"] < GOAL or not all(turn.left for turn in beside),
    }


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ratio, the rates, and what is left in the spools."""
    count, ratio = result["live_records"], result["ratio"]
    yield f"{count} live records of 6 kB beside a spool of {BACKLOG * count}"
    yield f"live beside a replay / alone   {spread(ratio)}   {verdict(ratio['median'], GOAL, at_least=True)}"
    names = ("alone", "beside", "replayed")
    yield "records a second: " + ", ".join(f"{name} {result[f'{name}_per_second']['median']:,.0f}" for name in names)
    yield f"left in the spool: {', '.join(map(str, result['left']))}"


async def _turn(database: Database, bodies: Sequence[Bodies], *, backlog: int) -> Turn:
    await database.empty()
    fresh = records(bodies)
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
            stats = writer.stats
        await database.verify(stats.persisted + writer.stats.replayed)
    return Turn(len(fresh) / seconds, replayed / seconds, left)


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

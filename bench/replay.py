"""``python -m bench.replay``: what a replay of the spool takes from live traffic.

Each round stores the same records twice: alone, and beside the replay of a spool that holds more than is replayed
meanwhile. The ratio is taken within a round. Spooled rows are of the same size and kind.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.database import Database, server
from bench.report import machine, summary
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


def main() -> None:
    """Print the ratio of each round and the median; exit with 1 below the goal, or where the spool ran empty."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description="Live traffic beside a replay.")
    parser.add_argument("--database-url", help="a server of your own; schema rwriter_bench is replaced in it")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    options = parser.parse_args()
    count, rounds = (COUNT // 5, 2) if options.quick else (COUNT, ROUNDS)
    with server(options.database_url) as url:
        turns = asyncio.run(_measure(url, count, rounds))
    ratios = [beside.rate / alone.rate for alone, beside in turns]
    print(*_lines(turns, ratios, count), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(_figures(turns, ratios, count), indent=2) + "\n")
    sys.exit(statistics.median(ratios) < GOAL or any(beside.left == 0 for _, beside in turns))


async def _measure(url: str, count: int, rounds: int) -> list[tuple[Turn, Turn]]:
    database = Database(url)
    bodies = Traffic().bodies(count)
    turns: list[tuple[Turn, Turn]] = []
    async with database.tables():
        await _turn(database, bodies, backlog=count // 4)  # warms files, connections and the interpreter
        for number in range(rounds):
            order = (0, BACKLOG * count) if number % 2 == 0 else (BACKLOG * count, 0)
            found = {backlog: await _turn(database, bodies, backlog=backlog) for backlog in order}
            turns.append((found[0], found[BACKLOG * count]))
    return turns


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
    """Until the replay is under way."""
    async with asyncio.timeout(DEADLINE):
        while backlog and not writer.stats.replayed:  # noqa: ASYNC110 -- the account rings no bell
            await asyncio.sleep(0.001)


def _lines(turns: Sequence[tuple[Turn, Turn]], ratios: Sequence[float], count: int) -> list[str]:
    each = " ".join(f"{ratio:.2f}" for ratio in ratios)
    median = statistics.median(ratios)
    alone, beside, replay = (
        statistics.median(values)
        for values in zip(*((alone.rate, beside.rate, beside.replayed) for alone, beside in turns), strict=True)
    )
    return [
        f"{count} live records of 6 kB beside a spool of {BACKLOG * count}, {len(turns)} rounds",
        f"live beside a replay / alone   {median:.2f} [{each}]   goal {GOAL}: {'met' if median >= GOAL else 'MISSED'}",
        f"records a second, medians: alone {alone:,.0f}, beside {beside:,.0f}, replayed meanwhile {replay:,.0f}",
        f"left in the spool: {', '.join(str(beside.left) for _, beside in turns)}",
    ]


def _figures(turns: Sequence[tuple[Turn, Turn]], ratios: Sequence[float], count: int) -> dict[str, object]:
    return {
        "machine": machine(),
        "live_records": count,
        "ratio": summary(list(ratios)),
        "alone_per_second": summary([alone.rate for alone, _ in turns]),
        "beside_per_second": summary([beside.rate for _, beside in turns]),
        "replayed_per_second": summary([beside.replayed for _, beside in turns]),
    }


if __name__ == "__main__":
    main()

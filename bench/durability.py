"""What ``durability="journal"`` costs beside ``memory``: ``python -m bench.durability``.

Fifty handlers at once, each sending one record after the other, as in a busy gateway: journaled records share commits.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from bench.database import Database, server
from bench.traffic import Bodies, Traffic, records
from rwriter import CompletedRequest, RequestsWriter, Spool

HANDLERS: Final = 50
COUNT: Final = 4_000
ROUNDS: Final = 5
# how: the spool's fsync, None without a journal
KINDS: Final[dict[str, str | None]] = {
    "memory": None,
    "journal, fsync=off": "off",
    "journal, fsync=normal": "normal",
    "journal, fsync=full": "full",
}


def main() -> None:
    """Print each kind's rate, and the time ``send`` takes, as ratios to ``memory`` in the same round."""
    parser = argparse.ArgumentParser(prog="python -m bench.durability", description=__doc__)
    parser.add_argument("--database-url", help="a server of your own instead of an embedded one")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    options = parser.parse_args()
    count, rounds = (COUNT // 8, 2) if options.quick else (COUNT, ROUNDS)
    with server(options.database_url) as url:
        asyncio.run(_measure(url, count, rounds))


async def _measure(url: str, count: int, rounds: int) -> None:
    database = Database(url)
    bodies = Traffic().bodies(count)
    slower: dict[str, list[float]] = {kind: [] for kind in KINDS}
    waits: dict[str, list[float]] = {kind: [] for kind in KINDS}
    async with database.tables():
        for number in range(rounds + 1):
            seconds = {kind: await _round(database, kind, bodies, waits[kind]) for kind in KINDS}
            if number == 0:  # warms connections, files and the interpreter
                for kind in KINDS:
                    waits[kind].clear()
                continue
            for kind in KINDS:
                slower[kind].append(seconds["memory"] / seconds[kind])
    print(f"{count} records of 6 kB from {HANDLERS} handlers, {rounds} rounds; rate as a part of memory's in its round")
    for kind in KINDS:
        each = " ".join(f"{ratio:.2f}" for ratio in slower[kind])
        middle, late = statistics.median(waits[kind]), statistics.quantiles(waits[kind], n=100)[98]
        line = f"{statistics.median(slower[kind]):.2f} [{each}]"
        print(f"{kind:22} {line:40} send p50 {middle * 1e6:,.0f} us, p99 {late * 1e6:,.0f} us")


async def _round(database: Database, kind: str, bodies: Sequence[Bodies], waits: list[float]) -> float:
    await database.empty()
    fresh = records(bodies)
    with tempfile.TemporaryDirectory(prefix="rwriter-bench-") as folder:
        async with (
            database.engines(3) as engines,
            RequestsWriter(engines, **_options(kind, folder)) as writer,
        ):
            began = time.perf_counter()
            left = iter(fresh)
            await asyncio.gather(*(_handler(writer, left, waits) for _ in range(HANDLERS)))
            await writer.flush()
            seconds = time.perf_counter() - began
    await database.verify(len(fresh))
    return seconds


def _options(kind: str, folder: str) -> dict[str, Any]:
    fsync = KINDS[kind]
    if fsync is None:
        return {}
    return {"durability": "journal", "spool": Spool(folder, fsync=fsync)}  # type: ignore[arg-type]


async def _handler(writer: RequestsWriter, left: Iterator[CompletedRequest], waits: list[float]) -> None:
    for record in left:
        began = time.perf_counter()
        await writer.send(record)
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0)


if __name__ == "__main__":
    main()

"""Measure what ``durability="journal"`` costs beside ``memory``.

Fifty handlers at once, each sending one record after the other, as in a busy gateway: journaled records share commits.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.database import Database
from bench.report import percentiles, ratios, rotated, spread, summary
from bench.traffic import Bodies, Traffic, records
from rwriter import CompletedRequest, RequestsWriter, Spool

HANDLERS: Final = 50
COUNT: Final = 4_000
ROUNDS: Final = 5
KINDS: Final[dict[str, str | None]] = {
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
    waits: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rounds: list[dict[str, float]] = []
    async with database.tables():
        for number in range(options.rounds + 1):
            if number == 1:  # the round before it warmed connections, files and the interpreter
                rounds.clear()
                waits = {kind: [] for kind in KINDS}
            order = rotated(KINDS, number)
            rounds.append({kind: await _round(database, kind, bodies, waits[kind]) for kind in order})
    rates = {kind: [count / one[kind] for one in rounds] for kind in KINDS}
    kinds = {
        kind: {
            "rate": summary(rates[kind]),
            "ratio": ratios(rates[kind], rates["memory"]),
            "send_us": percentiles([wait * 1e6 for wait in waits[kind]], 1),
        }
        for kind in KINDS
    }
    return {"records": count, "handlers": HANDLERS, "kinds": kinds}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each kind."""
    yield f"{result['records']} records of 6 kB from {HANDLERS} handlers; rate as a part of memory's in its round"
    for kind, found in result["kinds"].items():
        sends = f"send p50 {found['send_us']['p50']:,.0f} us, p99 {found['send_us']['p99']:,.0f} us"
        yield f"{kind:22} {spread(found['ratio']):22} {found['rate']['median']:8,.0f}/s  {sends}"


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

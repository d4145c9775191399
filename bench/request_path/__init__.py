"""Measure what storing its requests costs a service, on the request path and beside it.

Microseconds and allocations of building a record and handing it over; how long a flush keeps the event loop; the
process's own processor time for a record beside asyncpg executing the same statement; memory for a queued record.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bench import memory
from bench.database import Database
from bench.report import spread, verdict
from bench.request_path import client_cpu, front_door, loop_lag
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, Traffic
from rwriter import RequestsWriter

ROUNDS: Final = 5
BATCH: Final = 100

GOALS: Final = {"front_door_us": 8.0, "loop_stall_ms": 5.0, "client_cpu_ratio": 1.3}


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the hand-over, the event loop, processor time and memory, one after the other."""
    database = Database(url)
    bodies = Traffic().bodies((30 if options.quick else 100) * BATCH)
    async with database.tables():
        async with (
            database.engines(1) as engines,
            RequestsWriter(engines, batch_size=BATCH, flush_concurrency=1) as one,
        ):
            handed = await front_door.measure(one, bodies[: 50 * BATCH])
            await database.empty()
            lag = await loop_lag.measure(one, bodies, batch=BATCH)
        cpu = await client_cpu.measure(database, bodies[: 50 * BATCH], batch=BATCH, rounds=options.rounds)
        settings = await database.settings()
    run = {"batch": BATCH, "request_bytes": REQUEST_BYTES, "response_bytes": RESPONSE_BYTES}
    found = {"run": run, "server": settings, "front_door": handed, "loop_lag": lag, "client_cpu": cpu}
    return {**found, "memory": (await memory.measure(url, options))["kinds"], "goals": GOALS}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield every figure, with a verdict where there is a goal."""
    handed, lag, cpu = (result[name] for name in ("front_door", "loop_lag", "client_cpu"))
    yield f"a record of {REQUEST_BYTES + RESPONSE_BYTES:,} bytes, microseconds: p50, p99"
    for name, figures in handed.items():
        if "p50" in figures:
            yield f"  {name.replace('_', ' '):<28} {figures['p50']:8.2f} {figures['p99']:8.2f}"
    kept = handed["kept"]
    yield f"  kept, bodies aside: {kept['blocks']:g} blocks, {kept['bytes']:,} bytes"
    yield _verdict("build and send_nowait, p50", handed["build_and_send_nowait"]["p50"], "front_door_us")
    yield f"\nevent loop, milliseconds between two turns of it, {BATCH} records a flush: p50, p99, max"
    for where, which in itertools.product(lag, ("worst", "tick")):
        figures = lag[where][which]
        line = f"{where.replace('_', ' ')}, {'longest each' if which == 'worst' else 'every turn'}"
        yield f"  {line:<28} {figures['p50']:8.3f} {figures['p99']:8.3f} {figures['max']:8.3f}"
    yield _verdict("longest of each flush, p99", lag["flush"]["worst"]["p99"], "loop_stall_ms")
    yield "\nprocessor time of the client for a record, microseconds, and its ratio: median [least .. most]"
    for name, figures in cpu["microseconds"].items():
        yield f"  {name:<28} {spread(figures, 1):24} {spread(cpu['ratios'][name])}"
    for name in (client_cpu.STORE, client_cpu.WRITER):
        yield _verdict(f"{name} / asyncpg", cpu["ratios"][name]["median"], "client_cpu_ratio")
    for figures in result["memory"]:
        grown, charged = (figures[name] / figures["queued"] for name in ("grown_bytes", "pending_bytes"))
        yield f"memory of a queued record, {figures['kind']}: {grown:,.0f} bytes, {charged:,.0f} charged to the budget"


def _verdict(name: str, value: float, goal: str) -> str:
    return f"  {name}: {value:g}, {verdict(value, GOALS[goal])}"

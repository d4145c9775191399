"""``python -m bench.request_path``: what storing its requests costs a service, on the request path and beside it.

Microseconds and allocations of building a record and handing it over; how long a flush keeps the event loop; the
process's own processor time for a record beside asyncpg executing the same statement; memory for a queued record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench import client_cpu, front_door, loop_lag
from bench.database import Database, server
from bench.report import machine
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, Traffic
from rwriter import RequestsWriter

BATCH: Final = 100

GOALS: Final = {"front_door_us": 8.0, "loop_stall_ms": 5.0, "client_cpu_ratio": 1.3}


def main() -> None:
    """Measure, print, and write the JSON where one is asked for."""
    options = _options()
    with server(options.database_url) as url:
        result = asyncio.run(_measure(url, flushes=options.flushes, rounds=options.rounds))
        result["memory"] = _memory(url)
    result |= {"machine": machine(), "goals": GOALS}
    _print(result)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.request_path", description="The cost for the service.")
    parser.add_argument(
        "--database-url", help="a server of your own (default: embedded); schema rwriter_bench is replaced in it"
    )
    parser.add_argument("--flushes", type=int, help="watched for the event loop's stall (default 100)")
    parser.add_argument("--rounds", type=int, help="of processor time beside asyncpg (default 5)")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 30 flushes, 2 rounds")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    options.flushes = options.flushes or (30 if options.quick else 100)
    options.rounds = options.rounds or (2 if options.quick else 5)
    return options


async def _measure(url: str, *, flushes: int, rounds: int) -> dict[str, Any]:
    database, traffic = Database(url), Traffic()
    bodies = traffic.bodies(flushes * BATCH)
    async with database.tables():
        async with (
            database.engines(1) as engines,
            RequestsWriter(engines, batch_size=BATCH, flush_concurrency=1) as one,
        ):
            handed = await front_door.measure(one, bodies[: 50 * BATCH])
            await database.empty()
            lag = await loop_lag.measure(one, bodies, batch=BATCH)
        cpu = await client_cpu.measure(database, bodies[: 50 * BATCH], batch=BATCH, rounds=rounds)
        settings = await database.settings()
    run = {"batch": BATCH, "request_bytes": REQUEST_BYTES, "response_bytes": RESPONSE_BYTES}
    return {"run": run, "server": settings, "front_door": handed, "loop_lag": lag, "client_cpu": cpu}


def _memory(url: str) -> list[dict[str, Any]]:
    """The figures of ``bench.memory``, in a process of its own: this one's memory is no longer fresh."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.json"
        command = [sys.executable, "-m", "bench.memory", "--database-url", url, "--json", str(path)]
        # it exits with 1 past its bound, and says so in its figures
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 -- our own arguments
        found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def _print(result: dict[str, Any]) -> None:
    size = REQUEST_BYTES + RESPONSE_BYTES
    print(f"a record of {size:,} bytes, microseconds: p50, p99")
    for name, figures in result["front_door"].items():
        if "p50" in figures:
            print(f"  {name.replace('_', ' '):<28} {figures['p50']:8.2f} {figures['p99']:8.2f}")
    kept = result["front_door"]["kept"]
    print(f"  kept, bodies aside: {kept['blocks']:g} blocks, {kept['bytes']:,} bytes")
    _print_verdict("build and send_nowait, p50", result["front_door"]["build_and_send_nowait"]["p50"], "front_door_us")
    print(f"\nevent loop, milliseconds between two turns of it, {BATCH} records a flush: p50, p99, max")
    for where, windows in result["loop_lag"].items():
        for which, figures in windows.items():
            if which != "windows":
                line = f"{where.replace('_', ' ')}, {'longest each' if which == 'worst' else 'every turn'}"
                print(f"  {line:<28} {figures['p50']:8.3f} {figures['p99']:8.3f} {figures['max']:8.3f}")
    _print_verdict("longest of each flush, p99", result["loop_lag"]["flush"]["worst"]["p99"], "loop_stall_ms")
    _print_cpu(result["client_cpu"])
    for figures in result["memory"]:
        grown = figures["grown_bytes"] / figures["queued"]
        charged = figures["pending_bytes"] / figures["queued"]
        print(f"memory of a queued record, {figures['kind']}: {grown:,.0f} bytes, {charged:,.0f} charged to the budget")


def _print_cpu(figures: dict[str, Any]) -> None:
    print("\nprocessor time of the client for a record, microseconds, and its ratio: median [least .. most]")
    for name, spread in figures["microseconds"].items():
        ratio = figures["ratios"].get(name)
        beside = "" if ratio is None else f"   {ratio['median']:.2f} [{ratio['min']:.2f} .. {ratio['max']:.2f}]"
        print(f"  {name:<28} {spread['median']:8.1f} [{spread['min']:.1f} .. {spread['max']:.1f}]{beside}")
    _print_verdict("persist_completed / asyncpg", figures["ratios"][client_cpu.STORE]["median"], "client_cpu_ratio")
    _print_verdict("send to commit / asyncpg", figures["ratios"][client_cpu.WRITER]["median"], "client_cpu_ratio")


def _print_verdict(name: str, value: float, goal: str) -> None:
    print(f"  {name}: {value:g}, goal {GOALS[goal]:g}: {'met' if value <= GOALS[goal] else 'MISSED'}")


if __name__ == "__main__":
    main()

"""``python -m bench.memory``: what 10,000 queued records of 6 kB do to a service's resident memory in an outage.

For each kind of text a fresh process opens a writer, lets it warm up, and locks the table, so that flushes hang in the
database as in an outage. Then it sends until the buffer is full. Growth is the process's resident set; the budget is
``channel_bytes``, the writer's default.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import inspect
import json
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import sqlalchemy

from bench.database import Database, server
from bench.peers import DEFAULT_CONCURRENCY
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, record
from rwriter import ChannelFull, RequestsWriter

RECORDS: Final = 10_000

OVERHEAD: Final = 1_000
"""Bytes a queued record may take beyond its texts, which alone are charged to the budget: the record, its times, ids
and fingerprint, the buffer's own bookkeeping, and what the allocator rounds up."""

CHANNEL_BYTES: Final[int] = inspect.signature(RequestsWriter).parameters["channel_bytes"].default
KINDS: Final = {"ascii": "", "emoji": "\N{ROCKET}"}
"""What each text ends with. One emoji, and Python keeps four bytes for every character of it."""

WARM_UP: Final = 200
DEADLINE: Final = 60.0

_WAITING: Final = sqlalchemy.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'requests'::regclass")


def main() -> None:
    """Measure every kind in a process of its own; exit with 1 where one grew past its bound."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="Resident memory of a full buffer.")
    parser.add_argument(
        "--database-url", help="a server of your own (default: embedded); schema rwriter_bench is replaced in it"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind is not None:
        print(json.dumps(asyncio.run(_measure(options.database_url, options.kind))))
        return
    with server(options.database_url) as url:
        found = [_in_a_process(url, kind) for kind in KINDS]
    print(*(_line(figures) for figures in found), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(any(figures["grown_bytes"] > figures["bound_bytes"] for figures in found))


def _in_a_process(url: str, kind: str) -> dict[str, Any]:
    command = [sys.executable, "-m", __spec__.name, "--kind", kind, "--database-url", url]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 -- our own arguments
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


async def _measure(url: str, kind: str) -> dict[str, Any]:
    database, tail = Database(url), KINDS[kind]
    async with database.tables(), database.engines(DEFAULT_CONCURRENCY) as engines:
        async with RequestsWriter(engines, drain_timeout=DEADLINE) as writer:
            _fill(writer, tail, WARM_UP)
            await writer.flush(DEADLINE)
            async with _locked(database) as blocked:
                _trim()
                before = _resident()
                full = _fill(writer, tail, RECORDS)
                # what the flushes hold counts too
                await blocked()
                grown, stats = _resident() - before, writer.stats
        await database.verify(WARM_UP + stats.pending)
    return {
        "kind": kind,
        "queued": stats.pending,
        "held_by": "bytes" if full else "records",
        "grown_bytes": grown,
        "pending_bytes": stats.pending_bytes,
        "budget_bytes": CHANNEL_BYTES,
        "bound_bytes": CHANNEL_BYTES + OVERHEAD * stats.pending,
    }


def _fill(writer: RequestsWriter, tail: str, count: int) -> bool:
    """Send ``count`` records, or as many as fit. Whether the buffer was full before that."""
    for number in range(count):
        # each text is made in one allocation: growth is what the writer keeps, not the holes a generator leaves
        text = f"{number}{tail}"
        try:
            writer.send_nowait(record(text.rjust(REQUEST_BYTES, "."), text.rjust(RESPONSE_BYTES, ".")))
        except ChannelFull:
            return True
    return False


@contextlib.asynccontextmanager
async def _locked(database: Database) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold a lock that no flush gets past; yields a wait until all of them stand before it."""
    async with database.engine(1) as engine, engine.begin() as connection:
        await connection.execute(sqlalchemy.text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))

        async def blocked() -> None:
            async with asyncio.timeout(DEADLINE):
                while (await connection.execute(_WAITING)).scalar_one() < DEFAULT_CONCURRENCY:  # noqa: ASYNC110 -- the server's event, not ours
                    await asyncio.sleep(0.01)

        yield blocked


def _resident() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    # elsewhere only the peak can be had: an upper bound
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _trim() -> None:
    """Give back what the warm-up freed, or the first records would grow into it unseen."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _line(figures: dict[str, Any]) -> str:
    queued, grown, charged = figures["queued"], figures["grown_bytes"], figures["pending_bytes"]
    verdict = "within" if grown <= figures["bound_bytes"] else "OVER"
    return (
        f"{figures['kind']}: {queued:,} records queued, stopped by {figures['held_by']}; resident memory grew by "
        f"{grown:,} bytes,\n  {verdict} the budget of {figures['budget_bytes']:,} and {OVERHEAD:,} for each record\n"
        f"  a record: {grown / queued:,.0f} resident = {charged / queued:,.0f} charged to the budget "
        f"+ {(grown - charged) / queued:,.0f} (stats.pending_bytes: {charged:,})"
    )


if __name__ == "__main__":
    main()

"""Measure what 10,000 queued records of 6 kB do to a service's resident memory in an outage.

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
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import sqlalchemy

from bench.database import Database
from bench.processes import resident
from bench.report import verdict
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, record
from rwriter import ChannelFull, RequestsWriter

RECORDS: Final = 10_000

OVERHEAD: Final = 1_000
"""Bytes a queued record may take beyond its texts, which alone are charged to the budget: the record, its times, ids
and fingerprint, the buffer's own bookkeeping, and what the allocator rounds up."""

_DEFAULTS: Final = inspect.signature(RequestsWriter).parameters
CHANNEL_BYTES: Final[int] = _DEFAULTS["channel_bytes"].default
FLUSHES: Final[int] = _DEFAULTS["flush_concurrency"].default
KINDS: Final = {"ascii": "", "emoji": "\N{ROCKET}"}
"""The end of each text, by kind. One emoji, and Python keeps four bytes for every character of it."""

WARM_UP: Final = 200
DEADLINE: Final = 60.0

_WAITING: Final = sqlalchemy.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'requests'::regclass")


async def measure(url: str, _: argparse.Namespace) -> dict[str, Any]:
    """Measure every kind in a process of its own. It is missed where one grew past its bound."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        loop = asyncio.get_running_loop()
        found = [await loop.run_in_executor(fresh, _in_a_process, url, kind) for kind in KINDS]
    return {"kinds": found, "missed": any(one["grown_bytes"] > one["bound_bytes"] for one in found)}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each kind took."""
    for one in result["kinds"]:
        queued, grown, charged = one["queued"], one["grown_bytes"], one["pending_bytes"]
        yield f"{one['kind']}: {queued:,} records queued, stopped by {one['held_by']}; memory grew by {grown:,} bytes"
        yield f"  {verdict(grown, one['bound_bytes'])} (the budget, and {OVERHEAD:,} for each record)"
        yield f"  a record: {grown / queued:,.0f} resident, {charged / queued:,.0f} of them charged to the budget"


def _in_a_process(url: str, kind: str) -> dict[str, Any]:
    return asyncio.run(_measured(url, kind))


async def _measured(url: str, kind: str) -> dict[str, Any]:
    database, tail = Database(url), KINDS[kind]
    async with database.tables(), database.engines(FLUSHES) as engines:
        async with RequestsWriter(engines, drain_timeout=DEADLINE) as writer:
            _fill(writer, tail, WARM_UP)
            await writer.flush(DEADLINE)
            async with locked(database) as blocked:
                trim()
                before = resident()
                full = _fill(writer, tail, RECORDS)
                # what the flushes hold counts too
                await blocked()
                grown, stats = resident() - before, writer.stats
        await database.verify(WARM_UP + stats.pending)
    return {
        "kind": kind,
        "queued": stats.pending,
        "held_by": "bytes" if full else "records",
        "grown_bytes": grown,
        "pending_bytes": stats.pending_bytes,
        "bound_bytes": CHANNEL_BYTES + OVERHEAD * stats.pending,
    }


def _fill(writer: RequestsWriter, tail: str, count: int) -> bool:
    """Send ``count`` records, or as many as fit; returns True if the buffer was full before that."""
    for number in range(count):
        # each text is made in one allocation: growth is what the writer keeps, not the holes a generator leaves
        text = f"{number}{tail}"
        try:
            writer.send_nowait(record(text.rjust(REQUEST_BYTES, "."), text.rjust(RESPONSE_BYTES, ".")))
        except ChannelFull:
            return True
    return False


@contextlib.asynccontextmanager
async def locked(database: Database) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold a lock that no flush gets past; yields a wait until all of them stand before it."""
    async with database.engine(1) as engine, engine.begin() as connection:
        await connection.execute(sqlalchemy.text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))

        async def blocked() -> None:
            async with asyncio.timeout(DEADLINE):
                while (await connection.execute(_WAITING)).scalar_one() < FLUSHES:  # noqa: ASYNC110 -- the server's event, not ours
                    await asyncio.sleep(0.01)

        yield blocked


def trim() -> None:
    """Give back what the warm-up freed, or the first records would grow into it unseen."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)

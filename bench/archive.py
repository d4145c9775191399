"""Measure what requests take as Parquet beside PostgreSQL, how fast a week moves, and how fast it is read there.

Two kinds of a past week: calls that have nothing to do with each other, and conversations, whose every request repeats
the turns before it. Each is stored through ``persist_completed``, asked for by id and listed, moved, and asked again.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import text

from bench.database import own_database
from bench.report import percentiles
from bench.traffic import MODEL, Bodies, Traffic
from rwriter import CompletedRequest, DbEngines, RequestFilter, RequestStore, migrate, partitions
from rwriter.archive import ArchiveStore, archive_partitions
from rwriter.schema import first_id

ROWS: Final = 20_000
OWNERS: Final = 200
TURNS: Final = 6
ASKED: Final = 300
BATCH: Final = 200

_DATABASE: Final = "rwriter_bench_archive"
_COMPRESSION: Final = text(
    "SELECT CASE attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END FROM pg_attribute"
    " WHERE attrelid = CAST('requests' AS regclass) AND attname = 'response_body'"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of rows of each kind."""
    parser.add_argument("--rows", type=int, help=f"requests of each kind (default {ROWS}, with --quick 1000)")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Store, ask, move and ask again, for each kind."""
    rows = options.rows or (1_000 if options.quick else ROWS)
    kinds = {"single calls": _calls, "conversations": _conversations}
    return {"rows": rows, "kinds": {name: await _moved(url, make(rows)) for name, make in kinds.items()}}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a block for each kind."""
    for name, each in result["kinds"].items():
        yield f"{name}: {result['rows']:,} requests of {each['given']:,.0f} bytes of bodies, {each['compression']}"
        yield f"  bytes a record: {each['postgres']:,.0f} in PostgreSQL, {each['parquet']:,.0f} in Parquet"
        yield f"  {each['rate']:,.0f} rows a second moved, verified and dropped"
        for asked, times in each["ms"].items():
            yield f"  {asked:<24} p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms"


def _calls(rows: int) -> Iterator[Bodies]:
    traffic = Traffic()
    for start in range(0, rows, BATCH):
        yield from traffic.bodies(min(BATCH, rows - start))


def _conversations(rows: int) -> Iterator[Bodies]:
    """Yield turns of about the same mean size: each request holds those before it."""
    traffic, turns = Traffic(), list[dict[str, str]]()
    for number in range(rows):
        if number % TURNS == 0:
            turns = []
        ((asked, answered),) = traffic.bodies(1, request_bytes=500, response_bytes=1_000)
        turns.append({"role": "user", "content": asked})
        yield msgspec.json.encode({"model": MODEL, "input": turns}).decode(), answered
        turns.append({"role": "assistant", "content": answered})


async def _moved(url: str, bodies: Iterator[Bodies]) -> dict[str, Any]:
    monday = datetime.now(UTC) - timedelta(days=7 + datetime.now(UTC).weekday())
    async with own_database(url, _DATABASE) as own, DbEngines.from_url(own) as engines:
        await migrate.upgrade(own, partitioned="week")
        await partitions.ensure(engines, since=monday)
        store = RequestStore(engines)
        stored, given = await _stored(store, bodies, monday)
        async with engines.write.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.exec_driver_sql("VACUUM ANALYZE")
            compression = (await connection.execute(_COMPRESSION)).scalar_one()
        size = (await partitions.listing(engines))[0].size
        times = await _asked("PostgreSQL", stored, store.get_request, store.list_page)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            (fate,) = await archive_partitions(engines, datetime.now(UTC), folder)
            seconds = time.perf_counter() - began
            with ArchiveStore(folder) as archive:
                times |= await _asked("archive", stored, archive.get_request, archive.list_page)
                owners = dict(stored)
                times |= {
                    "archive, get with owner": await _timed(
                        lambda each: archive.get_request(each, created_by=owners[each]), list(owners)
                    )
                }
            on_disk = bytes_in(Path(folder))
    rows = len(stored)
    return {
        "given": given / rows,
        "postgres": size / rows,
        "parquet": on_disk / rows,
        "rate": rows / seconds,
        "compression": compression,
        "moved": fate.rows,
        "ms": times,
    }


def identity_at(moment: datetime) -> uuid.UUID:
    """Return a fresh UUIDv7 that was made at ``moment``."""
    return uuid.UUID(int=first_id(moment).int | (0x7 << 76) | (0b10 << 62) | random.getrandbits(62))


def bytes_in(folder: Path) -> int:
    """Return the bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def _stored(
    store: RequestStore, bodies: Iterator[Bodies], monday: datetime
) -> tuple[list[tuple[uuid.UUID, str]], int]:
    stored, batch, given = [], list[CompletedRequest](), 0
    for number, (request, response) in enumerate(bodies):
        owner = f"owner-{number // TURNS % OWNERS}"
        began = monday + timedelta(seconds=number)
        identity = identity_at(began)
        given += len(request) + len(response)
        batch.append(
            CompletedRequest(
                request_id=identity,
                status_code=200,
                request_body=request,
                response_body=response,
                model=MODEL,
                endpoint="/v1/responses",
                api_key="sk-bench",
                created_by=owner,
                started_at=began,
                completed_at=began + timedelta(seconds=1),
            )
        )
        stored.append((identity, owner))
        if len(batch) == BATCH:
            await store.persist_completed(batch)
            batch = []
    await store.persist_completed(batch)
    return stored, given


async def _asked(
    where: str,
    stored: Sequence[tuple[uuid.UUID, str]],
    get: Callable[[uuid.UUID], Awaitable[Any]],
    page: Callable[[RequestFilter], Awaitable[Any]],
) -> dict[str, dict[str, float]]:
    filters = [RequestFilter(created_by=owner) for _, owner in stored]
    return {
        f"{where}, get": await _timed(get, [identity for identity, _ in stored]),
        f"{where}, page of 50": await _timed(page, filters),
    }


async def _timed(question: Callable[[Any], Awaitable[Any]], about: Sequence[Any]) -> dict[str, float]:
    """Ask about some, one after the other; returns milliseconds."""
    found = []
    for each in random.Random(1).choices(about, k=ASKED):
        began = time.perf_counter()
        if await question(each) is None:
            raise AssertionError("a request is missing")
        found.append((time.perf_counter() - began) * 1_000)
    return percentiles(found)

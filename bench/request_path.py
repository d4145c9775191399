"""Measure what storing its requests costs a service, on the request path and beside it.

Microseconds of building a record and handing it over; how long a flush keeps the event loop; the process's own
processor time for a record beside asyncpg executing the same statement. ``bench memory`` measures a queued record.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Dialect

from bench.database import Database
from bench.peers.common import cut
from bench.peers.drivers import Driver
from bench.report import compared, in_rounds, percentiles, spread, verdict
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, Bodies, Traffic, records
from rwriter import CompletedRequest, RequestStore, RequestsWriter, new_request_id
from rwriter.store._persist import arrays_of, statement

ROUNDS: Final = 5
BATCH: Final = 100
CHUNK: Final = 500
"""Records between two waits for the writer: the buffer never fills."""
PAUSE: Final = 0.005
"""Seconds between two flushes, so that the server's own work after a commit is over."""

FRONT_DOOR_US: Final = 8.0
LOOP_STALL_MS: Final = 5.0
CLIENT_CPU_RATIO: Final = 1.3

RAW: Final = "asyncpg"
STORE: Final = "persist_completed"
WRITER: Final = "send to commit"

Batches = Sequence[Sequence[CompletedRequest]]
Way = Callable[[Batches], Callable[[], Coroutine[Any, Any, None]]]
"""Prepares whatever is not to be timed and answers with the part that is."""


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the hand-over, the event loop and processor time, one after the other."""
    database = Database(url)
    bodies = Traffic().bodies((30 if options.quick else 100) * BATCH)
    async with database.tables():
        async with (
            database.engines(1) as engines,
            RequestsWriter(engines, batch_size=BATCH, flush_concurrency=1) as one,
        ):
            await _handed(one, bodies[: 50 * BATCH])  # warm
            handed = await _handed(one, bodies[: 50 * BATCH])
            await database.empty()
            lag = await _lag(one, bodies)
        cpu = await _client_cpu(database, bodies[: 50 * BATCH], options.rounds)
        settings = await database.settings()
    run = {"batch": BATCH, "request_bytes": REQUEST_BYTES, "response_bytes": RESPONSE_BYTES}
    return {"run": run, "server": settings, "front_door_us": handed, "loop_ms": lag, "client_cpu": cpu}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield every figure, with a verdict where there is a goal."""
    yield f"a record of {REQUEST_BYTES + RESPONSE_BYTES:,} bytes, microseconds: p50, p99"
    for name, figures in result["front_door_us"].items():
        yield f"  {name:<28} {figures['p50']:8.2f} {figures['p99']:8.2f}"
    yield f"  together, p50: {verdict(result['front_door_us']['both']['p50'], FRONT_DOOR_US)}"
    yield f"\nlongest turn of the event loop in a flush of {BATCH} records, milliseconds: p50, p99, max"
    for name, figures in result["loop_ms"].items():
        yield f"  {name:<28} {figures['p50']:8.3f} {figures['p99']:8.3f} {figures['max']:8.3f}"
    yield f"  p99 of a flush: {verdict(result['loop_ms']['flush']['p99'], LOOP_STALL_MS)}"
    yield "\nprocessor time of the client for a record, microseconds, and its ratio: median [least .. most]"
    for name, figures in result["client_cpu"].items():
        told = "" if name == RAW else verdict(figures["ratio"]["median"], CLIENT_CPU_RATIO)
        yield f"  {name:<28} {spread(figures['cpu_us'], 1):24} {spread(figures['ratio'])} {told}"


# -- what a request pays


async def _handed(writer: RequestsWriter, bodies: Sequence[Bodies]) -> dict[str, Any]:
    """Return percentiles of a record's building and of ``send_nowait``, in microseconds."""
    found: list[tuple[int, int]] = []
    now, clock = records(bodies[:1])[0], time.perf_counter_ns
    for chunk in cut(bodies, CHUNK):
        for request_body, response_body in chunk:
            began = clock()
            # as a handler does: it has the bodies and both times, and makes the id
            made = CompletedRequest(
                request_id=new_request_id(),
                status_code=200,
                request_body=request_body,
                response_body=response_body,
                model=now.model,
                endpoint=now.endpoint,
                api_key=now.api_key,
                created_by=now.created_by,
                started_at=now.started_at,
                completed_at=now.completed_at,
            )
            built = clock()
            writer.send_nowait(made)
            found.append((built - began, clock() - built))
        await writer.flush()
    taken = {"build": [one for one, _ in found], "send_nowait": [one for _, one in found], "both": map(sum, found)}
    return {name: percentiles([each / 1_000 for each in values], 2) for name, values in taken.items()}


# -- what everybody else on the loop pays


async def _lag(writer: RequestsWriter, bodies: Sequence[Bodies]) -> dict[str, Any]:
    """Return milliseconds of the longest turn of the loop in each flush, and in an idle wait of the same length."""
    worst: dict[str, list[float]] = {"flush": [], "no flush": []}
    for each in cut(bodies, BATCH):
        # built and queued outside of it: those microseconds are the handlers', here they would come in one piece
        prepared = records(each)
        gc.collect()
        await asyncio.sleep(PAUSE)
        for record in prepared:
            writer.send_nowait(record)
        began = time.perf_counter()
        worst["flush"].append(await _longest_turn(writer.flush()))
        worst["no flush"].append(await _longest_turn(asyncio.sleep(time.perf_counter() - began)))
    return {name: percentiles(values) for name, values in worst.items()}


async def _longest_turn(work: Awaitable[object]) -> float:
    """Await ``work`` beside a task that does nothing but yield: any handler would wait as long as it did, in ms."""
    ticks: list[int] = []

    async def tick() -> None:
        before = time.perf_counter_ns()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter_ns()
            ticks.append(now - before)
            before = now

    ticking = asyncio.create_task(tick(), name="bench-loop-lag")
    await work
    ticking.cancel()
    await asyncio.wait({ticking})
    return max(ticks) / 1e6


# -- what the process pays


async def _client_cpu(database: Database, bodies: Sequence[Bodies], rounds: int) -> dict[str, Any]:
    """Return microseconds of this process for a record, by way, and their ratios to ``RAW`` within each round."""

    async def turn(name: str) -> dict[str, float]:
        await database.empty()
        work = ways[name](cut(records(bodies), BATCH))
        gc.collect()
        # processor time of this process alone, the kernel's for its sockets included; the server's is its own
        started = time.process_time()
        await work()
        seconds = time.process_time() - started
        await database.verify(len(bodies))
        return {"cpu_us": seconds / len(bodies) * 1e6}

    async with _ways(database) as ways:
        return compared(await in_rounds(ways, rounds, turn), RAW, measure="cpu_us")


@contextlib.asynccontextmanager
async def _ways(database: Database) -> AsyncIterator[dict[str, Way]]:
    async with database.engine(1) as raw, database.engines(1) as engines, raw.connect() as held:
        driver, store = (await held.get_raw_connection()).driver_connection, RequestStore(engines)
        async with RequestsWriter(engines, batch_size=BATCH, flush_concurrency=1) as writer:

            async def send(batch: Sequence[CompletedRequest]) -> None:
                for record in batch:
                    writer.send_nowait(record)
                # one flush for each batch, as everywhere else here
                await writer.flush()

            yield {
                RAW: await _raw(driver, raw.dialect),
                STORE: _each(store.persist_completed),
                WRITER: _each(send),
            }


def _each(store: Callable[[Any], Awaitable[object]], prepare: Callable[[Any], Any] = lambda batch: batch) -> Way:
    def way(batches: Batches) -> Callable[[], Coroutine[Any, Any, None]]:
        prepared = [prepare(batch) for batch in batches]

        async def work() -> None:
            for each in prepared:
                await store(each)

        return work

    return way


async def _raw(driver: Driver, dialect: Dialect) -> Way:
    compiled = statement(facts=False).compile(dialect=dialect)
    names = compiled.positiontup or ()
    prepared = await driver.prepare(str(compiled))
    # preparing alone leaves the server in the middle of a request, its locks on the tables held
    await driver.execute("SELECT 1")

    def arrays(batch: Sequence[CompletedRequest]) -> list[Any]:
        # in id order, as records are made here
        given = arrays_of(batch)
        return [given[name] for name in names]

    return _each(lambda given: prepared.fetchrow(*given), arrays)

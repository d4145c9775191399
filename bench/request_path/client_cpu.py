"""Measure the client's processor time for a record, beside asyncpg executing the same statement and arrays."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

from sqlalchemy import Dialect

from bench.database import Database
from bench.peers.asyncpg import Driver
from bench.peers.common import cut
from bench.report import ratios, rotated, summary
from bench.traffic import Bodies, records
from rwriter import CompletedRequest, DbEngines, RequestStore, RequestsWriter
from rwriter.store._persist import arrays_of, statement

RAW: Final = "asyncpg"
TRANSACTION: Final = "asyncpg, begin and commit"
STORE: Final = "persist_completed"
WRITER: Final = "send to commit"

Batches = Sequence[Sequence[CompletedRequest]]
Timed = Callable[[], Coroutine[Any, Any, None]]
Way = Callable[[Batches], Timed]
"""Prepares whatever is not to be timed and answers with the part that is."""


async def measure(database: Database, bodies: Sequence[Bodies], *, batch: int, rounds: int) -> dict[str, Any]:
    """Return microseconds of this process for a record, by way, and their ratios to ``RAW`` within each round."""
    async with _opened(database, batch) as ways:
        found: list[dict[str, float]] = []
        for number in range(rounds + 1):
            turns = rotated(ways.items(), number)
            found.append({name: await _seconds(database, way, bodies, batch) / len(bodies) for name, way in turns})
    measured = found[1:]  # the first round warms connections, statements and caches
    seconds = {name: [one[name] for one in measured] for name in ways}
    return {
        "microseconds": {name: summary(each * 1e6 for each in values) for name, values in seconds.items()},
        "ratios": {name: ratios(values, seconds[RAW]) for name, values in seconds.items()},
    }


async def _seconds(database: Database, way: Way, bodies: Sequence[Bodies], batch: int) -> float:
    await database.empty()
    fresh = records(bodies)
    work = way(cut(fresh, batch))
    gc.collect()
    # processor time of this process alone, the kernel's for its sockets included; the server's is its own
    started = time.process_time()
    await work()
    seconds = time.process_time() - started
    await database.verify(len(bodies))
    return seconds


@contextlib.asynccontextmanager
async def _opened(database: Database, batch: int) -> AsyncIterator[dict[str, Way]]:
    async with database.engine(1) as raw, database.engines(1) as engines, raw.connect() as held:
        driver = (await held.get_raw_connection()).driver_connection
        async with RequestsWriter(engines, batch_size=batch, flush_concurrency=1) as writer:
            yield {
                RAW: await _raw(driver, raw.dialect, in_transaction=False),
                TRANSACTION: await _raw(driver, raw.dialect, in_transaction=True),
                STORE: _persist(engines),
                WRITER: _send(writer),
            }


async def _raw(driver: Driver, dialect: Dialect, *, in_transaction: bool) -> Way:
    compiled = statement(facts=False).compile(dialect=dialect)
    names = compiled.positiontup or ()
    prepared = await driver.prepare(str(compiled))
    # preparing alone leaves the server in the middle of a request, its locks on the tables held
    await driver.execute("SELECT 1")

    def way(batches: Batches) -> Timed:
        # in id order, as records are made here
        arrays = [[given[name] for name in names] for given in map(arrays_of, batches)]

        async def execute() -> None:
            for each in arrays:
                async with driver.transaction() if in_transaction else contextlib.nullcontext():
                    await prepared.fetchrow(*each)

        return execute

    return way


def _persist(engines: DbEngines) -> Way:
    store = RequestStore(engines)

    def way(batches: Batches) -> Timed:
        async def persist() -> None:
            for each in batches:
                await store.persist_completed(each)

        return persist

    return way


def _send(writer: RequestsWriter) -> Way:
    def way(batches: Batches) -> Timed:
        async def send() -> None:
            for each in batches:
                for record in each:
                    writer.send_nowait(record)
                # one flush for each batch, as everywhere else here
                await writer.flush()

        return send

    return way

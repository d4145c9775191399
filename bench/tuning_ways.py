"""How a variant stores records: the writer with other options, under another load, or a statement of its own."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from bench.axes import Setting
from bench.batches import Store, Work, in_turns
from bench.database import Database
from bench.peers import Peer, sent
from bench.tuning_rounds import Extra, Open, Way
from rwriter import CompletedRequest, DbEngines, RequestsWriter

# -- the writer with other options


def writing(*, arguments: Mapping[str, Any] | None = None, **options: Any) -> Open:
    """The writer, with ``options`` and those of ``open_writer``; ``arguments`` are the driver's."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        async with open_writer(database, setting, arguments, **options) as (_, writer):
            yield Way(peer(setting, lambda records: sent(writer, records, setting.batch)))

    return opened


def taking_turns(number: int) -> Open:
    """Between two batches a flush lets the event loop go round ``number`` times."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        async with open_writer(database, setting) as (_, writer):
            channel = writer._channel  # noqa: SLF001 -- where a flush gets its batch; no option says this
            take = channel.take

            async def later(*bounds: Any) -> Any:
                for _ in range(number):
                    await asyncio.sleep(0)
                return await take(*bounds)

            # looked up anew for every batch
            vars(channel)["take"] = later
            yield Way(peer(setting, lambda records: sent(writer, records, setting.batch)))

    return opened


def updating() -> Open:
    """The writer; tells how much of the updates was HOT, and what a row takes in its table and in all."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        async with open_writer(database, setting) as (engine, writer):

            async def after() -> Extra:
                await _tell_statistics(engine, setting.flushes)
                return await _sizes(database)

            yield Way(peer(setting, lambda records: sent(writer, records, setting.batch)), after)

    return opened


async def _tell_statistics(engine: AsyncEngine, connections: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        # all at once, or the pool would hand out the same one again
        held = [await stack.enter_async_context(engine.connect()) for _ in range(connections)]
        for connection in held:
            await connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
            await connection.rollback()


async def _sizes(database: Database) -> Extra:
    async with database.control() as connection:
        result = await connection.exec_driver_sql(
            "SELECT n_tup_hot_upd * 1.0 / greatest(n_tup_upd, 1) AS hot_share,"
            " pg_relation_size(relid) * 1.0 / rows AS heap_bytes,"
            " pg_total_relation_size(relid) * 1.0 / rows AS all_bytes"
            " FROM pg_stat_user_tables, (SELECT greatest(count(*), 1) AS rows FROM requests) AS counted"
            " WHERE relid = 'requests'::regclass"
        )
        found = {name: float(value) for name, value in result.mappings().one().items()}
        await connection.exec_driver_sql("SELECT pg_stat_reset_single_table_counters('requests'::regclass)")
        return found


# -- a load that is no flood


def paced(rate: float, **options: Any) -> Open:
    """``rate`` records a second, each waited for; tells how long they took to be committed, in milliseconds."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        async with open_writer(database, setting, **options) as (_, writer):
            seconds: list[float] = []

            def work(records: Sequence[CompletedRequest]) -> Work:
                seconds.clear()
                return lambda: _offer(writer, records, rate, seconds)

            async def after() -> Extra:
                cuts = statistics.quantiles(seconds, n=100)
                return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}

            yield Way(peer(setting, work), after)

    return opened


async def _offer(
    writer: RequestsWriter, records: Sequence[CompletedRequest], rate: float, seconds: list[float]
) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def one(record: CompletedRequest) -> None:
        sent_at = loop.time()
        await writer.send(record, wait="committed")
        seconds.append(loop.time() - sent_at)

    async with asyncio.TaskGroup() as group:
        for number, record in enumerate(records):
            await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
            group.create_task(one(record))


# -- the statement itself


def executing(store: Callable[[Any], Store]) -> Open:
    """``store`` over raw asyncpg, on as many connections as flushes are in flight."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        async with database.drivers(setting.flushes) as drivers:
            stores = [store(driver) for driver in drivers]
            yield Way(peer(setting, lambda records: in_turns(stores, records, setting.batch)))

    return opened


def peer(setting: Setting, work: Callable[[Sequence[CompletedRequest]], Work]) -> Peer:
    """What a turn asks of a variant."""
    return Peer("", setting.flushes, work)


@contextlib.asynccontextmanager
async def open_writer(
    database: Database,
    setting: Setting,
    arguments: Mapping[str, Any] | None = None,
    *,
    direct: bool = True,
    **options: Any,
) -> AsyncIterator[tuple[AsyncEngine, RequestsWriter]]:
    """The writer as ``setting`` has it, with ``options``, and its engine.

    ``direct``: as ``DbEngines.from_url`` has it where no pooler is.
    """
    flushes = setting.flushes
    async with (
        database.engine(flushes, arguments=arguments) as engine,
        RequestsWriter(
            DbEngines(engine, direct=direct), batch_size=setting.batch, flush_concurrency=flushes, **options
        ) as writer,
    ):
        yield engine, writer

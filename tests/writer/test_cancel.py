"""Cancellation is a way to lose things: every operation is cancelled at each of its awaits, and the account closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import CompletedRequest, DbEngines, PersistResult, RequestStore, RequestsWriter
from rwriter.testing import TestDbEngines
from tests.support.driving import CancelAt, settle_loop
from tests.support.fates import balanced, ids, stored
from tests.support.faults import table_locked
from tests.support.records import record

pytestmark = pytest.mark.parametrize("late", [False, True], ids=["at", "late"])

MOST_AWAITS = 400


async def at_every_await(late: bool, scenario: Callable[[CancelAt], Awaitable[None]]) -> None:
    """Run ``scenario`` with a cancellation at its first await, at its second, ... until it has none left."""
    for number in range(MOST_AWAITS):
        cancel = CancelAt(number, late=late)
        await scenario(cancel)
        if not cancel.reached:
            assert number > 0, "the operation never awaited: nothing was tested"
            return
    pytest.fail("the operation awaited without end")


async def cancelled(cancel: CancelAt, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` as a task of its own under ``cancel``; its cancellation, and nothing else, is expected."""
    task = asyncio.create_task(cancel.run(work))
    await asyncio.wait({task})
    if task.cancelled():
        return
    task.result()


async def accounted(engine: TestDbEngines, writer: RequestsWriter, sent: Iterable[CompletedRequest]) -> None:
    stats = writer.stats
    assert balanced(stats)
    assert stats.pending == stats.pending_bytes == stats.dropped == 0
    assert stats.persisted + stats.skipped == stats.accepted
    assert ids(sent) <= await stored(engine)


async def test_cancelling_send(rwriter_engines: TestDbEngines, late: bool) -> None:
    async def scenario(cancel: CancelAt) -> None:
        first = record()
        async with RequestsWriter(rwriter_engines, channel_capacity=1, check_schema=False) as writer:
            await writer.send(first)
            await cancelled(cancel, writer.send(record()))
            assert balanced(writer.stats)
        await accounted(rwriter_engines, writer, [first])
        assert writer.stats.accepted == (1 if cancel.reached else 2)

    await at_every_await(late, scenario)


async def test_cancelling_send_committed(rwriter_engines: TestDbEngines, late: bool) -> None:
    async def scenario(cancel: CancelAt) -> None:
        first, second = record(), record()
        async with RequestsWriter(rwriter_engines, check_schema=False) as writer:
            await cancelled(cancel, writer.send(first, wait="committed"))
            await writer.send(second)
        # accepted at the first step, so stored whatever happened to the wait
        await accounted(rwriter_engines, writer, [first, second])

    await at_every_await(late, scenario)


async def test_cancelling_flush(rwriter_engines: TestDbEngines, late: bool) -> None:
    async def scenario(cancel: CancelAt) -> None:
        sent = [record() for _ in range(3)]
        async with RequestsWriter(rwriter_engines, check_schema=False) as writer:
            for item in sent:
                writer.send_nowait(item)
            await cancelled(cancel, writer.flush())
            assert balanced(writer.stats)
        await accounted(rwriter_engines, writer, sent)

    await at_every_await(late, scenario)


async def test_cancelling_run(rwriter_engines: TestDbEngines, late: bool) -> None:
    async def scenario(cancel: CancelAt) -> None:
        sent: list[CompletedRequest] = []
        writer = RequestsWriter(rwriter_engines)
        shutdown = asyncio.Event()

        async def feed() -> None:
            await writer.wait_open(timeout=30)
            for _ in range(3):
                item = record()
                await writer.send(item)
                sent.append(item)
            shutdown.set()

        feeding = asyncio.create_task(feed())
        await cancelled(cancel, writer.run(shutdown))
        await asyncio.wait({feeding}, timeout=5)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        assert balanced(writer.stats)
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("rwriter-")] == []
        await writer.aclose()
        await accounted(rwriter_engines, writer, sent)

    await at_every_await(late, scenario)


async def test_cancelling_aclose(rwriter_engines: TestDbEngines, late: bool) -> None:
    async def scenario(cancel: CancelAt) -> None:
        sent = [record() for _ in range(3)]
        async with RequestsWriter(rwriter_engines, check_schema=False) as writer:
            for item in sent:
                writer.send_nowait(item)
            await cancelled(cancel, writer.aclose())
            assert balanced(writer.stats)
        await accounted(rwriter_engines, writer, sent)

    await at_every_await(late, scenario)


async def test_cancelling_aclose_past_its_deadline(rwriter_engines: TestDbEngines, late: bool) -> None:
    async def scenario(cancel: CancelAt) -> None:
        writer = RequestsWriter(rwriter_engines, check_schema=False, batch_size=2)
        async with writer:
            async with table_locked(rwriter_engines):
                for _ in range(5):
                    writer.send_nowait(record())
                await settle_loop()
                await cancelled(cancel, writer.aclose(timeout=0.01))
                assert balanced(writer.stats)
        assert balanced(writer.stats)
        assert writer.stats.pending == 0
        assert len(await stored(rwriter_engines)) == writer.stats.persisted

    async def fresh(cancel: CancelAt) -> None:
        async with rwriter_engines.write.begin() as connection:
            await connection.execute(text("TRUNCATE requests, request_templates"))
        await scenario(cancel)

    await at_every_await(late, fresh)


class CancellingStore(RequestStore):
    """The real store, in which the flush that carries ``target`` is cancelled at one of its awaits."""

    def __init__(self, engines: TestDbEngines | DbEngines | AsyncEngine, cancel: CancelAt) -> None:
        super().__init__(engines)
        self._cancel = cancel

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        return await self._cancel.run(super().persist_completed(records))

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        await self._cancel.run(super().bury(record, sqlstate=sqlstate, error=error))


@pytest.mark.parametrize("bad", [False, True], ids=["good", "one-bad"])
async def test_cancelling_the_flush_itself(
    rwriter_engines: TestDbEngines, rwriter_database: str, late: bool, bad: bool
) -> None:
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE requests ADD CHECK (response_body <> 'bad')"))

    async def buried() -> set[UUID]:
        async with rwriter_engines.write.connect() as connection:
            rows = (await connection.execute(text("SELECT request_id FROM dead_letters"))).scalars().all()
        assert len(rows) == len(set(rows)), "one letter for each bad record, however often it was tried"
        return set(rows)

    async def scenario(cancel: CancelAt) -> None:
        sent = [record(response_body="bad" if bad and number == 1 else "good") for number in range(4)]
        store = CancellingStore(engines, cancel)
        async with RequestsWriter(store, check_schema=False, flush_concurrency=1) as writer:
            for item in sent:
                writer.send_nowait(item)
            await settle_loop()
        assert balanced(writer.stats)
        assert writer.stats.pending == writer.stats.dropped == 0
        missing = ids(sent) - await stored(rwriter_engines)
        assert missing == ids(sent) & await buried()
        assert len(missing) == writer.stats.dead == int(bad)

    async with DbEngines.from_url(rwriter_database) as engines:
        await at_every_await(late, scenario)
        # nothing that was cancelled may hold a connection of the pool
        async with asyncio.timeout(30):
            for _ in range(3):
                assert (await RequestStore(engines).persist_completed([record()])).inserted == 1

"""The writer on real rows: batches, back-pressure, flush, the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import pytest
from sqlalchemy import ColumnElement, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import (
    ChannelFull,
    CompletedRequest,
    PersistResult,
    RecordDropped,
    RecordRejected,
    RecordSkipped,
    RequestStore,
    RequestsWriter,
    SchemaOutdated,
    WriterClosed,
    WriterFailed,
    WriterNotOpen,
)
from rwriter.engines import EngineProvider
from rwriter.schema import request_templates, requests
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually, settle_loop
from tests.support.fates import ids, stored
from tests.support.faults import table_locked
from tests.support.records import record


async def batch_sizes(engines: EngineProvider) -> list[int]:
    """Rows by the transaction that wrote them, in order: the server's own count of flushes."""
    transaction: ColumnElement[int] = literal_column("requests.xmin::text::bigint")
    template_transaction: ColumnElement[int] = literal_column("request_templates.xmin::text::bigint")
    query = select(transaction, template_transaction).join_from(
        requests, request_templates, requests.c.template_id == request_templates.c.id
    )
    async with engines.write.connect() as connection:
        pairs = (await connection.execute(query)).all()
    assert all(mine == templates for mine, templates in pairs)
    return [number for _, number in sorted(Counter(mine for mine, _ in pairs).items())]


@pytest.mark.both_variants
async def test_what_is_sent_is_stored_when_the_block_is_left(rwriter_engines: TestDbEngines) -> None:
    sent = [record() for _ in range(250)]
    async with RequestsWriter(rwriter_engines) as writer:
        for item in sent:
            await writer.send(item)
    assert await stored(rwriter_engines) == ids(sent)
    assert (writer.stats.accepted, writer.stats.persisted, writer.stats.pending) == (250, 250, 0)


@pytest.mark.both_variants
async def test_under_load_a_flush_is_one_transaction_of_batch_size_rows(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines, flush_concurrency=1, linger=0) as writer:
        async with table_locked(rwriter_engines):
            await writer.send(record())
            await settle_loop()
            for _ in range(250):
                await writer.send(record())
        await writer.flush()
    assert await batch_sizes(rwriter_engines) == [1, 100, 100, 50]


async def test_idle_a_record_is_written_at_once_and_alone(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines) as writer:
        for _ in range(3):
            await writer.send(record())
            await writer.flush()
    assert await batch_sizes(rwriter_engines) == [1, 1, 1]


async def test_batch_bytes_bound_a_transaction_and_batch_size_below_one_means_one(
    rwriter_engines: TestDbEngines,
) -> None:
    items = [record(response_body="x" * 10_000) for _ in range(6)]
    async with RequestsWriter(
        rwriter_engines, flush_concurrency=1, batch_bytes=int(items[0].text_bytes * 2.5)
    ) as writer:
        for item in items:
            writer.send_nowait(item)
    assert await batch_sizes(rwriter_engines) == [2, 2, 2]
    async with RequestsWriter(rwriter_engines, flush_concurrency=1, batch_size=0) as writer:
        for _ in range(3):
            writer.send_nowait(record())
    assert await batch_sizes(rwriter_engines) == [2, 2, 2, 1, 1, 1]


async def test_several_flushes_are_in_flight_at_once(rwriter_engines: TestDbEngines) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    async def three_wait() -> bool:
        async with rwriter_engines.write.connect() as connection:
            return bool((await connection.execute(waiting)).scalar_one() == 3)

    async with RequestsWriter(rwriter_engines, flush_concurrency=3, batch_size=1) as writer:
        async with table_locked(rwriter_engines):
            for _ in range(5):
                await writer.send(record())
            await eventually(three_wait)
        await writer.flush()
    assert len(await stored(rwriter_engines)) == 5


async def test_a_full_buffer_makes_send_wait_and_send_nowait_raise_by_count(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines, channel_capacity=3) as writer:
        async with table_locked(rwriter_engines):
            for _ in range(3):
                writer.send_nowait(record())
            with pytest.raises(ChannelFull, match="3 of 3 records"):
                writer.send_nowait(record())
            waiting = asyncio.create_task(writer.send(record()))
            await settle_loop()
            assert not waiting.done()
            assert writer.stats.waiting_senders == 1
        await waiting
    assert len(await stored(rwriter_engines)) == 4


async def test_a_full_buffer_makes_send_wait_by_bytes_whatever_the_count(rwriter_engines: TestDbEngines) -> None:
    big = record(response_body="x" * 100_000)
    async with RequestsWriter(rwriter_engines, channel_bytes=250_000) as writer:
        async with table_locked(rwriter_engines):
            writer.send_nowait(big)
            writer.send_nowait(record(response_body="x" * 100_000))
            waiting = asyncio.create_task(writer.send(record(response_body="x" * 100_000)))
            await settle_loop()
            assert not waiting.done()
            assert writer.stats.pending_bytes <= 250_000
        await waiting
    assert len(await stored(rwriter_engines)) == 3


async def test_a_record_over_the_byte_budget_passes(rwriter_engines: TestDbEngines) -> None:
    giant = record(response_body="x" * 1_000_000)
    async with RequestsWriter(rwriter_engines, channel_bytes=10_000, batch_bytes=10_000) as writer:
        await writer.send(record())
        async with asyncio.timeout(30):
            await writer.send(giant)
            await writer.send(record())
    assert giant.request_id in await stored(rwriter_engines)
    assert writer.stats.persisted == 3


async def test_a_record_can_be_read_from_the_buffer_until_it_is_stored(rwriter_engines: TestDbEngines) -> None:
    item = record()
    async with RequestsWriter(rwriter_engines) as writer:
        async with table_locked(rwriter_engines):
            await writer.send(item)
            await settle_loop()
            assert writer.get(item.request_id) is item
        await writer.flush()
        assert writer.get(item.request_id) is None


async def test_send_committed_returns_when_the_row_is_there(rwriter_engines: TestDbEngines) -> None:
    item = record()
    async with RequestsWriter(rwriter_engines) as writer:
        await writer.send(item, wait="committed")
        assert await stored(rwriter_engines) == {item.request_id}
        # a redelivery: its row is there, which is all the caller asked
        await writer.send(item, wait="committed")
        assert writer.stats.skipped == 1


async def test_send_committed_raises_when_the_row_is_somebody_elses(rwriter_engines: TestDbEngines) -> None:
    item, mine = record(), record()
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(
            requests.insert().values(id=item.request_id, model="m", created_by="daemon", service_tier="flex")
        )
    async with RequestsWriter(rwriter_engines) as writer:
        answers = await asyncio.gather(
            writer.send(item, wait="committed"), writer.send(mine, wait="committed"), return_exceptions=True
        )
    assert isinstance(answers[0], RecordSkipped)
    assert answers[1] is None
    assert (writer.stats.skipped, writer.stats.persisted) == (1, 1)


@pytest.mark.both_variants
async def test_send_committed_raises_when_the_record_is_refused(rwriter_engines: TestDbEngines) -> None:
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE requests ADD CHECK (model <> 'bad')"))
    async with RequestsWriter(rwriter_engines) as writer:
        with pytest.raises(RecordRejected, match="23514"):
            await writer.send(record(model="bad"), wait="committed")


async def test_flush_returns_when_everything_accepted_before_it_has_its_fate(rwriter_engines: TestDbEngines) -> None:
    sent = [record() for _ in range(150)]
    async with RequestsWriter(rwriter_engines) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush()
        assert await stored(rwriter_engines) == ids(sent)
        await writer.flush()


async def test_flush_gives_up_waiting_after_its_timeout_and_loses_nothing(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines) as writer:
        async with table_locked(rwriter_engines):
            await writer.send(record())
            with pytest.raises(TimeoutError):
                await writer.flush(timeout=0.01)
            assert writer.stats.pending == 1
        await writer.flush()
    assert writer.stats.persisted == 1


async def test_closing_refuses_waiting_senders_and_stores_what_was_accepted(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines, channel_capacity=2) as writer:
        async with table_locked(rwriter_engines):
            for _ in range(2):
                await writer.send(record())
            waiting = [asyncio.create_task(writer.send(record())) for _ in range(3)]
            await settle_loop()
            closing = asyncio.create_task(writer.aclose())
            refusals = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(refusal) for refusal in refusals] == [WriterClosed] * 3
        await closing
    assert len(await stored(rwriter_engines)) == writer.stats.accepted == writer.stats.persisted == 2


async def test_closing_is_idempotent_also_at_the_same_time(rwriter_engines: TestDbEngines) -> None:
    writer = RequestsWriter(rwriter_engines)
    await writer.aclose()
    await writer.aclose()
    with pytest.raises(WriterClosed):
        await writer.send(record())
    async with RequestsWriter(rwriter_engines) as other:
        await other.send(record())
        await asyncio.gather(*(other.aclose() for _ in range(3)))
        with pytest.raises(WriterClosed):
            other.send_nowait(record())
    assert other.stats.persisted == 1


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_past_the_drain_deadline_the_rest_is_dropped_counted_and_logged(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture, concurrency: int
) -> None:
    async with table_locked(rwriter_engines):
        writer = RequestsWriter(
            rwriter_engines, batch_size=2, check_schema=False, flush_concurrency=concurrency, drain_timeout=0.05
        )
        async with writer:
            outcome = asyncio.create_task(writer.send(record(), wait="committed"))
            for _ in range(9):
                await writer.send(record())
            await settle_loop()
    with pytest.raises(RecordDropped):
        await outcome
    assert (writer.stats.accepted, writer.stats.dropped, writer.stats.pending) == (10, 10, 0)
    assert "10 records pending" in caplog.text
    assert await stored(rwriter_engines) == set()


async def test_a_writer_must_be_open_and_is_used_once(rwriter_engines: TestDbEngines) -> None:
    writer = RequestsWriter(rwriter_engines)
    with pytest.raises(WriterNotOpen):
        await writer.send(record())
    with pytest.raises(WriterNotOpen):
        await writer.flush()
    async with writer:
        pass
    with pytest.raises(WriterClosed, match="used once"):
        async with writer:
            pass


async def test_run_consumes_until_shutdown_and_drains(rwriter_engines: TestDbEngines) -> None:
    shutdown = asyncio.Event()
    writer = RequestsWriter(rwriter_engines)
    running = asyncio.create_task(writer.run(shutdown))
    await writer.wait_open(timeout=30)
    sent = [record() for _ in range(120)]
    for item in sent:
        await writer.send(item)
    shutdown.set()
    await running
    assert await stored(rwriter_engines) == ids(sent)
    with pytest.raises(WriterClosed):
        await writer.send(record())


async def test_a_database_without_the_tables_is_refused_on_start(empty_database: str) -> None:
    store = RequestStore(_engine(empty_database))
    with pytest.raises(SchemaOutdated, match="rwriter migrate"):
        async with RequestsWriter(store):
            pass
    writer = RequestsWriter(store)
    running = asyncio.create_task(writer.run(asyncio.Event()))
    with pytest.raises(WriterFailed) as caught:
        await writer.wait_open(timeout=30)
    assert isinstance(caught.value.__cause__, SchemaOutdated)
    with pytest.raises(SchemaOutdated):
        await running
    await writer.aclose()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_bytes", 0),
        ("channel_capacity", 0),
        ("channel_bytes", 0),
        ("max_retries", -1),
        ("retry_base_delay", -0.1),
        ("retry_max_delay", -1),
        ("linger", -1),
        ("flush_concurrency", 0),
        ("flush_timeout", 0),
        ("drain_timeout", -1),
        ("linger", float("nan")),
    ],
)
def test_an_option_that_cannot_be_used_is_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        RequestsWriter(_engine("postgresql://nobody@127.0.0.1:1/nowhere"), **{option: value})  # type: ignore[arg-type]


async def test_what_is_not_a_record_is_refused(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines) as writer:
        with pytest.raises(TypeError, match="CompletedRequest"):
            await writer.send({"request_id": "x"})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="CompletedRequest"):
            writer.send_nowait(None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="committed"):
            await writer.send(record(), wait="stored")  # type: ignore[arg-type]
    assert writer.stats.accepted == 0


def _engine(url: str) -> AsyncEngine:
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)


class MeasuringStore(RequestStore):
    """The real store; keeps the bytes and the number of records of each statement."""

    def __init__(self, engines: TestDbEngines) -> None:
        super().__init__(engines)
        self.statements: list[tuple[int, int]] = []

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        given = list(records)
        self.statements.append((sum(item.text_bytes for item in given), len(given)))
        return await super().persist_completed(given)


async def test_no_statement_is_so_large_that_encoding_it_holds_up_the_loop(rwriter_engines: TestDbEngines) -> None:
    store = MeasuringStore(rwriter_engines)
    sizes = [100] * 30 + [200_000] * 12 + [3_000_000] + [80_000] * 20
    sent = [record(response_body="x" * size) for size in sizes]
    async with RequestsWriter(store, flush_concurrency=1) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    assert await stored(rwriter_engines) == ids(sent)
    assert all(size <= 1024 * 1024 or number == 1 for size, number in store.statements)
    # and no smaller than need be: 2.4 MB, the large one, 1.6 MB with what came before or after
    assert len(store.statements) <= 3 + 1 + 2 + 1

"""The writer when the database is away, wrong, silent, or will not take a record."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import (
    CompletedRequest,
    DbEngines,
    PersistResult,
    RecordDropped,
    RequestStore,
    RequestsWriter,
    WriterFailed,
)
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually, settle_loop
from tests.support.fates import balanced, ids, letters, stored
from tests.support.faults import refuse_bad_bodies, table_locked, through_a_proxy
from tests.support.records import record


class CountingStore(RequestStore):
    """The real store; counts the statements that were tried."""

    tried = 0

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        self.tried += 1
        return await super().persist_completed(records)


def patient(engine: AsyncEngine, **options: object) -> RequestsWriter:
    return RequestsWriter(engine, max_retries=10_000, retry_base_delay=0.001, retry_max_delay=0.01, **options)  # type: ignore[arg-type]


def done(writer: RequestsWriter) -> int:
    return writer.stats.accepted - writer.stats.pending


def progressed(writer: RequestsWriter, before: int, feeding: asyncio.Task[None]) -> bool:
    return done(writer) > before or feeding.done()


async def test_a_server_gone_for_a_while_costs_retries_and_no_record(
    rwriter_engines: TestDbEngines, rwriter_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [record() for _ in range(300)]
    async with through_a_proxy(rwriter_database) as (proxy, engine), patient(engine) as writer:
        for item in sent[:100]:
            await writer.send(item)
        proxy.cut()
        for item in sent[100:]:
            await writer.send(item)
        await eventually(lambda: writer.stats.retries > 3)
        assert balanced(writer.stats)
        proxy.heal()
        await writer.flush(timeout=60)
    assert await stored(rwriter_engines) == ids(sent)
    assert writer.stats.dropped == 0
    away = [entry for entry in caplog.records if "the database is away" in entry.message]
    assert len(away) == 1


async def test_connections_reset_in_the_middle_of_everything_lose_and_double_nothing(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    sent = [record() for _ in range(1_000)]
    async with through_a_proxy(rwriter_database) as (proxy, engine), patient(engine, batch_size=10) as writer:

        async def feed() -> None:
            for item in sent:
                await writer.send(item)
                await asyncio.sleep(0)
            await writer.flush(timeout=60)

        feeding = asyncio.create_task(feed())
        cuts = 0
        while not feeding.done():
            # each cut comes at another moment of a flush, and lets some other flush succeed before the next
            await settle_loop(cuts * 7 % 100)
            proxy.drop()
            cuts += 1
            await eventually(partial(progressed, writer, done(writer), feeding))
        await feeding
        assert cuts > 10
        assert writer.stats.retries > 0
    assert await stored(rwriter_engines) == ids(sent)
    async with rwriter_engines.write.connect() as connection:
        templates = (await connection.execute(text("SELECT count(*) FROM request_templates"))).scalar_one()
    assert templates == len(sent)
    assert writer.stats.persisted + writer.stats.skipped == len(sent)


async def test_a_server_gone_past_the_retries_drops_counts_and_logs_once(
    rwriter_engines: TestDbEngines, rwriter_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        writer = RequestsWriter(engine, max_retries=2, retry_base_delay=0.001, give_up_after=0, batch_size=10)
        async with writer:
            proxy.cut()
            outcome = asyncio.create_task(writer.send(record(), wait="committed"))
            for _ in range(99):
                await writer.send(record())
            await writer.flush(timeout=60)
            with pytest.raises(RecordDropped):
                await outcome
            assert (writer.stats.accepted, writer.stats.dropped) == (100, 100)
            proxy.heal()
            await writer.send(record(), wait="committed")
    assert writer.stats.persisted == 1
    assert len([entry for entry in caplog.records if "dropping records" in entry.message]) == 1
    assert "100 records were dropped meanwhile" in caplog.text


async def test_a_database_away_on_start_does_not_keep_the_service_from_starting(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        proxy.cut()
        async with patient(engine) as writer:
            item = record()
            await writer.send(item)
            proxy.heal()
            await writer.flush(timeout=60)
    assert await stored(rwriter_engines) == {item.request_id}


async def test_a_peer_that_stops_answering_costs_one_flush_timeout_and_no_record(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, _):
        url = proxy.url(rwriter_database)
        # a pool, so that the connection that falls silent is one already in use
        async with DbEngines.from_url(url, statement_timeout=300) as engines:
            async with patient(engines.write, flush_timeout=0.3) as writer:
                await writer.send(record(), wait="committed")
                proxy.stall()
                item = record()
                await writer.send(item)
                await eventually(lambda: writer.stats.retries > 0)
                proxy.heal()
                await writer.flush(timeout=60)
    assert item.request_id in await stored(rwriter_engines)
    assert writer.stats.dropped == 0


async def test_a_missing_table_names_the_command_that_mends_it_and_is_an_outage(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    async with RequestsWriter(rwriter_engines.write, max_retries=1, retry_base_delay=0.001) as writer:
        async with rwriter_engines.write.begin() as connection:
            await connection.execute(text("ALTER TABLE requests RENAME TO elsewhere"))
        item = record()
        await writer.send(item)
        await eventually(lambda: writer.health.state == "holding")
        async with rwriter_engines.write.begin() as connection:
            await connection.execute(text("ALTER TABLE elsewhere RENAME TO requests"))
        await writer.flush(timeout=60)
    assert await stored(rwriter_engines) == {item.request_id}
    errors = [entry.message for entry in caplog.records if entry.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "rwriter migrate" in errors[0]
    assert "42P01" in errors[0]


@pytest.mark.parametrize("position", [0, 1, 37, 49, 50, 98, 99])
async def test_one_bad_record_among_a_hundred_is_found_in_log2_statements(
    rwriter_engines: TestDbEngines, position: int
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    sent = [record() for _ in range(100)]
    bad = sent[position] = record(response_body="bad", custom_id="kept whole")
    store = CountingStore(rwriter_engines)
    async with RequestsWriter(store, retry_base_delay=60, flush_concurrency=1) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    assert await stored(rwriter_engines) == ids(sent) - {bad.request_id}
    ((kept, sqlstate, error),) = await letters(rwriter_engines)
    assert kept == bad
    assert sqlstate == "23514"
    assert "no_bad" in error
    assert (writer.stats.persisted, writer.stats.dead, writer.stats.retries) == (99, 1, 0)
    # the refused batch, the search, and one statement for what the search left aside
    assert store.tried <= 1 + math.ceil(math.log2(100)) + 1


@pytest.mark.parametrize("bad_count", [2, 7, 60])
async def test_many_bad_records_are_each_found(rwriter_engines: TestDbEngines, bad_count: int) -> None:
    await refuse_bad_bodies(rwriter_engines)
    every = 100 / bad_count
    bad = {int(number * every) for number in range(bad_count)}
    sent = [record(response_body="bad" if number in bad else "good") for number in range(100)]
    store = CountingStore(rwriter_engines)
    async with RequestsWriter(store, retry_base_delay=60) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    assert await stored(rwriter_engines) == {item.request_id for item in sent if item.response_body == "good"}
    assert {kept.request_id for kept, _, _ in await letters(rwriter_engines)} == {
        item.request_id for item in sent if item.response_body == "bad"
    }
    assert (writer.stats.dead, writer.stats.retries) == (bad_count, 0)
    assert store.tried <= 1 + bad_count * (math.ceil(math.log2(100)) + 1)


async def test_a_hundred_bad_records_among_a_hundred_are_all_kept(rwriter_engines: TestDbEngines) -> None:
    await refuse_bad_bodies(rwriter_engines)
    sent = [record(response_body="bad") for _ in range(100)]
    store = CountingStore(rwriter_engines)
    async with RequestsWriter(store, retry_base_delay=60, flush_concurrency=1, drain_timeout=60) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    assert {kept.request_id for kept, _, _ in await letters(rwriter_engines)} == ids(sent)
    assert (writer.stats.dead, writer.stats.retries) == (100, 0)
    # dense, so looked at one by one rather than by halves
    assert store.tried <= 220


async def test_a_trigger_of_the_operators_may_refuse_a_record(rwriter_engines: TestDbEngines) -> None:
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN IF NEW.model = 'bad' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$"
            )
        )
        await connection.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    sent = [record(model="bad" if number == 3 else "good") for number in range(10)]
    async with RequestsWriter(rwriter_engines, retry_base_delay=60) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    ((kept, sqlstate, _),) = await letters(rwriter_engines)
    assert (kept, sqlstate) == (sent[3], "P0001")
    assert await stored(rwriter_engines) == ids(sent) - {kept.request_id}


async def test_a_bad_record_in_the_middle_of_an_outage_is_buried_when_it_ends(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    sent = [record(response_body="bad" if number == 5 else "good") for number in range(20)]
    async with through_a_proxy(rwriter_database) as (proxy, engine), patient(engine) as writer:
        proxy.cut()
        for item in sent:
            await writer.send(item)
        await eventually(lambda: writer.stats.retries > 0)
        proxy.heal()
        await writer.flush(timeout=60)
    assert (writer.stats.persisted, writer.stats.dead, writer.stats.dropped) == (19, 1, 0)


async def test_without_dead_letters_a_bad_record_is_dropped_counted_and_does_not_block(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE dead_letters ADD CHECK (sqlstate <> '23514')"))
    sent = [record(), record(response_body="bad"), record()]
    async with RequestsWriter(rwriter_engines) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    assert (writer.stats.persisted, writer.stats.dropped) == (2, 1)
    assert str(sent[1].request_id) in caplog.text


async def test_when_the_background_dies_everyone_hears_and_closing_saves_the_records(
    rwriter_engines: TestDbEngines,
) -> None:
    async with RequestsWriter(rwriter_engines, channel_capacity=2, flush_concurrency=1) as writer:
        async with table_locked(rwriter_engines):
            committed = asyncio.create_task(writer.send(record(), wait="committed"))
            await settle_loop()
            await writer.send(record())
            waiting = asyncio.create_task(writer.send(record()))
            flushing = asyncio.create_task(writer.flush())
            await settle_loop()
            (consumer,) = [task for task in asyncio.all_tasks() if task.get_name() == "rwriter-consumer"]
            consumer.cancel()
            for waiter in (committed, waiting, flushing):
                with pytest.raises(WriterFailed):
                    await waiter
            with pytest.raises(WriterFailed):
                await writer.send(record())
            with pytest.raises(WriterFailed):
                writer.send_nowait(record())
            assert writer.stats.pending == 2
    assert (writer.stats.persisted, writer.stats.pending) == (2, 0)
    assert len(await stored(rwriter_engines)) == 2


class BrokenStore(RequestStore):
    """A store with a bug in it."""

    broken = True

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        if self.broken:
            raise KeyError("a bug")
        return await super().persist_completed(records)


async def test_a_bug_is_no_reason_to_call_records_bad(rwriter_engines: TestDbEngines) -> None:
    store = BrokenStore(rwriter_engines)
    async with RequestsWriter(store, max_retries=10_000, retry_base_delay=0.001, retry_max_delay=0.01) as writer:
        await writer.send(record())
        await eventually(lambda: writer.stats.retries > 2)
        store.broken = False
        await writer.flush(timeout=30)
    assert (writer.stats.persisted, writer.stats.dead, writer.stats.dropped) == (1, 0, 0)


async def test_no_body_and_no_key_is_ever_logged_or_raised(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="rwriter")
    await refuse_bad_bodies(rwriter_engines)
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE requests ADD CHECK (model <> 'bad')"))
    raised: list[str] = []
    async with RequestsWriter(rwriter_engines, max_retries=0, give_up_after=0) as writer:
        for change in ({"model": "bad"}, {"response_body": "bad"}):
            item = record(request_body="SECRET-PROMPT", api_key="SECRET-KEY", **change)
            with pytest.raises(Exception) as caught:  # noqa: PT011 -- whatever it is, its text is the point
                await writer.send(item, wait="committed")
            error: BaseException | None = caught.value
            while error is not None:
                raised.append(f"{error} {error!r}")
                error = error.__cause__ or error.__context__
        async with rwriter_engines.write.begin() as connection:
            await connection.execute(text("DROP TABLE requests"))
        await writer.send(record(request_body="SECRET-PROMPT", api_key="SECRET-KEY"))
        await writer.flush()
    assert writer.stats.dropped == 1
    assert len(caplog.records) >= 4
    assert "SECRET" not in caplog.text
    assert not [message for message in raised if "SECRET" in message]

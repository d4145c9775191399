"""Away is what the whole writer knows: retries, the buffer that holds, the one probe, and ``health``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import (
    CompletedRequest,
    DatabaseRefused,
    DbEngines,
    PersistResult,
    RecordDropped,
    RequestStore,
    RequestsWriter,
    Spool,
)
from rwriter.testing import TestDbEngines
from rwriter.writer._options import Options
from rwriter.writer._outage import Outage
from tests.support.buffer import channel, send_to
from tests.support.driving import eventually, settle_loop
from tests.support.fates import balanced, ids, stored
from tests.support.faults import through_a_proxy
from tests.support.records import record


def quick(engine: AsyncEngine | DbEngines | RequestStore, **options: object) -> RequestsWriter:
    chosen: dict[str, object] = {"max_retries": 1, "retry_base_delay": 0.001, "retry_max_delay": 0.01}
    return RequestsWriter(engine, **(chosen | options))  # type: ignore[arg-type]


# -- holding


async def test_without_a_spool_records_wait_in_the_buffer_and_senders_when_it_is_full(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    sent = [record() for _ in range(120)]
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with quick(engine, channel_capacity=100, batch_size=10) as writer:
            proxy.cut()
            for item in sent[:100]:
                await writer.send(item)
            sending = [asyncio.create_task(writer.send(item)) for item in sent[100:]]
            await eventually(lambda: writer.health.state == "holding")
            assert (writer.stats.pending, writer.stats.waiting_senders) == (100, 20)
            proxy.heal()
            await asyncio.gather(*sending)
            await writer.flush(timeout=30)
            assert writer.health.state == "ok"
    assert await stored(rwriter_engines) == ids(sent)
    assert (writer.stats.persisted, writer.stats.dropped) == (120, 0)


class CountingStore(RequestStore):
    """The real store; counts how many statements are under way at once, while ``away`` is set."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.under_way = self.most = self.tried = 0

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        self.tried += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await super().persist_completed(records)
        finally:
            self.under_way -= 1


async def test_while_it_holds_one_probe_at_a_time_asks(rwriter_database: str) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        store = CountingStore(engine)
        async with quick(store, batch_size=5, flush_concurrency=4, max_retries=0, drain_timeout=0.1) as writer:
            proxy.cut()
            for _ in range(100):
                await writer.send(record())
            await eventually(lambda: writer.health.state == "holding" and store.under_way == 0)
            store.most, before = 0, store.tried
            await eventually(lambda: store.tried > before + 10)
            assert store.most == 1


async def test_only_what_waited_for_as_long_is_given_up(
    rwriter_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with quick(engine, give_up_after=0.3) as writer:
            proxy.cut()
            waiting = asyncio.create_task(writer.send(record(), wait="committed"))
            await eventually(lambda: writer.health.state == "holding")
            assert writer.stats.dropped == 0
            with pytest.raises(RecordDropped, match=r"for 0\.3 s"):
                await waiting
            await writer.send(record())
            await eventually(lambda: writer.stats.retries > 0)
            proxy.heal()
            await writer.flush(timeout=30)
    assert balanced(writer.stats)
    assert (writer.stats.persisted, writer.stats.dropped) == (1, 1)
    assert "records wait in the buffer, and are dropped after 0.3 s" in caplog.text


async def test_a_writer_that_is_closed_while_it_holds_tries_once_more_at_once(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        # the next probe would come in an hour
        async with quick(engine, max_retries=0, retry_base_delay=3_600, retry_max_delay=3_600) as writer:
            proxy.cut()
            item = record()
            await writer.send(item)
            await eventually(lambda: writer.health.state == "holding")
            proxy.heal()
    assert await stored(rwriter_engines) == {item.request_id}


async def test_an_idle_writer_finds_out_that_the_database_is_back(rwriter_database: str, tmp_path: Path) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        proxy.cut()
        async with quick(engine) as holding, quick(engine, spool=Spool(tmp_path), replay_interval=0.02) as spooling:
            assert (holding.health.state, spooling.health.state) == ("holding", "spooling")
            proxy.heal()
            await eventually(lambda: (holding.health.state, spooling.health.state) == ("ok", "ok"))
            assert holding.stats.accepted == spooling.stats.accepted == 0


def test_the_delays_double_from_the_first_and_end_at_the_longest() -> None:
    outage = Outage(Options(max_retries=3, retry_base_delay=0.1, retry_max_delay=10.0))
    least = []
    for _ in range(8):
        outage.retries_spent(ConnectionRefusedError())
        drawn = [outage._delay() for _ in range(200)]
        least.append(min(drawn))
        assert max(drawn) <= 1.5 * min(10.0, 0.1 * 2 ** (2 + len(least)))
    for number, delay in enumerate(least):
        assert delay >= min(10.0, 0.1 * 2 ** (3 + number))


# -- connections


async def test_a_role_with_one_connection_costs_waiting_and_no_record(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    role = f"one_of_{make_url(rwriter_database).database}"
    async with rwriter_engines.write.begin() as connection:
        for statement in (
            f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
            "CREATE FUNCTION s() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(.05); RETURN NULL; END$$",
            "CREATE TRIGGER slow AFTER INSERT ON requests FOR EACH STATEMENT EXECUTE FUNCTION s()",
        ):
            await connection.execute(text(statement))
    url = make_url(rwriter_database).set(username=role)
    async with DbEngines.from_url(url) as engines:
        # retries that a statement outlasts, and nothing to hold the records: each spent retry would be a drop
        async with quick(engines, batch_size=10, give_up_after=0, flush_concurrency=3) as writer:
            for _ in range(200):
                await writer.send(record())
            await writer.flush(timeout=60)
            assert (writer.stats.persisted, writer.stats.dropped) == (200, 0)
            assert writer.stats.retries > 0
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text(f"DROP OWNED BY {role}"))
        await connection.execute(text(f"DROP ROLE {role}"))


# -- health


async def test_health_tells_since_when_and_why(rwriter_database: str, tmp_path: Path) -> None:
    begun = datetime.now(UTC)
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        writer = quick(engine, spool=Spool(tmp_path))
        assert writer.health.state == "failed"
        async with writer:
            ok = writer.health
            assert (ok.state, ok.error, ok.pending, ok.oldest_age, ok.spooled) == ("ok", None, 0, 0.0, 0)
            assert begun <= ok.since <= datetime.now(UTC)
            proxy.cut()
            for _ in range(3):
                await writer.send(record())
            await writer.flush(timeout=30)
            away = writer.health
            assert (away.state, away.spooled) == ("spooling", 3)
            assert "Connect" in (away.error or "")
            assert ok.since <= away.since <= datetime.now(UTC)
            proxy.heal()
            await eventually(lambda: writer.health.state == "ok" and writer.health.spooled == 0)
        assert writer.health.state == "failed"


async def test_what_is_misconfigured_raises_on_start_in_the_servers_words(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    missing = make_url(rwriter_database).set(database="no_such_database")
    for options in ({}, {"spool": Spool(tmp_path)}):
        async with DbEngines.from_url(missing) as engines:
            writer = quick(engines, **options)
            with pytest.raises(DatabaseRefused, match='database "no_such_database" does not exist'):
                await writer.__aenter__()
            assert writer.health.state == "failed"
            assert "no_such_database" in (writer.health.error or "")


# -- the cost of many waiting callers


class CountedFuture(asyncio.Future[None]):
    """What a sender waits for; counts how often one of them was looked at to find another."""

    looked_at = 0

    def __eq__(self, other: object) -> bool:
        CountedFuture.looked_at += 1
        return self is other

    def __hash__(self) -> int:
        CountedFuture.looked_at += 1
        return id(self)


async def test_cancelling_senders_that_wait_takes_as_many_steps_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "create_future", lambda: CountedFuture(loop=loop))

    async def steps_to_cancel(number: int) -> int:
        full = channel(capacity=1)
        full.send_nowait(record())
        tasks = [asyncio.create_task(send_to(full, record())) for _ in range(number)]
        await settle_loop()
        assert full.waiting_senders == number
        CountedFuture.looked_at = 0
        # the youngest first, which a search from the front finds last
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
        assert full.waiting_senders == 0
        return CountedFuture.looked_at

    few, many = await steps_to_cancel(200), await steps_to_cancel(400)
    assert 0 < many <= 2 * few + 10

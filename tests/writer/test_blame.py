"""Is it this record? Found out by trying, whatever code the database refuses a statement with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import CompletedRequest, PersistResult, RequestStore, RequestsWriter, Spool
from rwriter.testing import TestDbEngines
from rwriter.writer._options import Options
from rwriter.writer._outage import Outage
from tests.support.driving import eventually
from tests.support.fates import balanced, ids, letters, stored
from tests.support.records import record

CODES = ("45000", "QT001", "2F003", "38001", "42501", "42883", "55006", "57014", "72111", "HV001", "21000", "0A000")


async def tell(engines: TestDbEngines, *statements: str) -> None:
    async with engines.write.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def refuse(engines: TestDbEngines, action: str) -> None:
    """Make a trigger do ``action`` for each row of the tenant ``mallory``."""
    await tell(
        engines,
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF NEW.created_by = 'mallory' THEN {action}; END IF; RETURN NEW; END $$",
        "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION refuse()",
    )


def raising(code: str) -> str:
    return f"RAISE EXCEPTION 'no' USING ERRCODE = '{code}'"


@asynccontextmanager
async def without_bypass(engines: TestDbEngines, url: str) -> AsyncIterator[AsyncEngine]:
    """Yield an engine of a role that a row policy of ``requests`` lets write for everyone but mallory."""
    role = f"writer_of_{make_url(url).database}"
    await tell(
        engines,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        "ALTER TABLE requests ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY p ON requests TO {role} USING (true) WITH CHECK (created_by <> 'mallory')",
    )
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg", username=role, password=None), poolclass=NullPool
    )
    yield engine
    await tell(engines, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def quick(engine: TestDbEngines | AsyncEngine | RequestStore, **options: object) -> RequestsWriter:
    chosen: dict[str, object] = {"max_retries": 1, "retry_base_delay": 0.001, "retry_max_delay": 0.01}
    return RequestsWriter(engine, **(chosen | options))  # type: ignore[arg-type]


def offered(bad: Iterable[int], number: int) -> list[CompletedRequest]:
    positions = set(bad)
    return [record(created_by="mallory" if each in positions else "alice") for each in range(number)]


async def ended_as_they_should(engines: TestDbEngines, sent: list[CompletedRequest]) -> bool:
    buried = [kept for kept, _, _ in await letters(engines)]
    good = [item for item in sent if item.created_by != "mallory"]
    return await stored(engines) == ids(good) and ids(buried) == ids(sent) - ids(good)


@pytest.mark.parametrize("bad", [{0}, {13}, {29}, {3, 4, 20}, set(range(0, 30, 2))], ids=str)
async def test_what_a_row_policy_refuses_is_a_dead_letter_and_the_rest_is_stored(
    rwriter_engines: TestDbEngines, rwriter_database: str, bad: set[int]
) -> None:
    sent = offered(bad, 30)
    async with without_bypass(rwriter_engines, rwriter_database) as engine, quick(engine) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
        assert (writer.stats.persisted, writer.stats.dead, writer.stats.dropped) == (30 - len(bad), len(bad), 0)
        assert writer.health.state == "ok"
    assert await ended_as_they_should(rwriter_engines, sent)
    assert {sqlstate for _, sqlstate, _ in await letters(rwriter_engines)} == {"42501"}


async def test_whatever_code_a_trigger_raises_its_record_alone_is_refused(rwriter_engines: TestDbEngines) -> None:
    for code in CODES:
        await refuse(rwriter_engines, raising(code))
        sent = offered({5}, 10)
        async with quick(rwriter_engines, max_retries=0) as writer:
            for item in sent:
                writer.send_nowait(item)
            await writer.flush(timeout=30)
            assert (writer.stats.persisted, writer.stats.dead, writer.stats.dropped) == (9, 1, 0), code
        assert sent[5] in [kept for kept, sqlstate, _ in await letters(rwriter_engines) if sqlstate == code]


KILLING = "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1)"


@pytest.mark.parametrize("action", [raising("QT001"), KILLING], ids=["refused", "killing"])
async def test_a_bad_record_in_the_spool_holds_up_no_other(
    rwriter_engines: TestDbEngines, tmp_path: Path, action: str
) -> None:
    await refuse(rwriter_engines, action)
    sent = [record(created_by="mallory"), *offered((), 200)]
    async with quick(rwriter_engines, spool=Spool(tmp_path), replay_interval=0.05) as writer:
        await writer.send(sent[0])
        await writer.flush(timeout=30)
        # alone, nobody can tell whether it is to blame
        assert writer.stats.spooled == 1
        for item in sent[1:]:
            await writer.send(item)
        await eventually(lambda: ended_as_they_should(rwriter_engines, sent))
        assert balanced(writer.stats)
        await eventually(lambda: writer.health.state == "ok")
    assert writer.stats.dropped == 0


async def test_bad_records_by_the_batch_in_the_spool_are_passed_by(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    await refuse(rwriter_engines, raising("45000"))
    spool = Spool(tmp_path)
    await spool.open()
    sent = [*offered(range(30), 30), *offered((), 20)]
    await spool.put(sent)
    await spool.aclose()
    async with quick(rwriter_engines, spool=Spool(tmp_path), batch_size=10, replay_interval=0.05):
        await eventually(lambda: ended_as_they_should(rwriter_engines, sent))


async def test_bad_records_alone_in_the_spool_keep_no_live_record_from_the_database(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    store = Refusing(rwriter_engines, times=10**9)
    spool = Spool(tmp_path)
    await spool.open()
    await spool.put(offered(range(3), 3))
    await spool.aclose()
    async with quick(store, spool=Spool(tmp_path), replay_interval=0.01) as writer:
        await eventually(lambda: store.refused > 20)
        assert writer.health.state == "ok"
        live = record()
        await writer.send(live, wait="committed")
        await eventually(lambda: writer.stats.replayed == 3)
    assert (writer.stats.persisted, writer.stats.spooled) == (1, 0)


async def test_without_a_spool_a_bad_record_waits_until_another_one_tells(rwriter_engines: TestDbEngines) -> None:
    await refuse(rwriter_engines, raising("38000"))
    sent = [record(created_by="mallory"), record()]
    async with quick(rwriter_engines, flush_concurrency=1) as writer:
        await writer.send(sent[0])
        await eventually(lambda: writer.health.state == "holding")
        assert writer.stats.pending == 1
        await writer.send(sent[1])
        await writer.flush(timeout=30)
        assert (writer.stats.persisted, writer.stats.dead, writer.health.state) == (1, 1, "ok")
    assert await ended_as_they_should(rwriter_engines, sent)


class Refusing(RequestStore):
    """The real store, which refuses mallory's records as the server does, ``times`` times."""

    def __init__(self, engines: TestDbEngines, times: int) -> None:
        super().__init__(engines)
        self.times = times
        self.refused = 0
        self.tried = 0

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        given = list(records)
        self.tried += 1
        if self.refused < self.times and any(item.created_by == "mallory" for item in given):
            self.refused += 1
            raise TransientRefusal
        return await super().persist_completed(given)


class TransientRefusal(Exception):
    """A statement was refused with a code that means: later."""

    sqlstate = "40001"


async def test_a_record_refused_for_a_while_is_not_to_blame(rwriter_engines: TestDbEngines) -> None:
    # the batch is refused twice, and three parts of it, and the record alone: at a retry it goes in
    store = Refusing(rwriter_engines, times=5)
    sent = offered({3}, 10)
    async with quick(store) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    assert (writer.stats.persisted, writer.stats.dead) == (10, 0)
    assert store.refused == 5


async def test_a_database_that_takes_nothing_is_not_asked_for_every_record(rwriter_engines: TestDbEngines) -> None:
    store = Refusing(rwriter_engines, times=10**9)
    async with quick(store, give_up_after=0, flush_concurrency=1) as writer:
        for item in offered(range(100), 100):
            writer.send_nowait(item)
        await writer.flush(timeout=30)
    assert (writer.stats.dropped, writer.stats.dead) == (100, 0)
    assert store.tried <= 30


async def test_a_privilege_that_is_taken_away_buries_nobody(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    sent = [record() for _ in range(40)]
    async with without_bypass(rwriter_engines, rwriter_database) as engine:
        (role,) = {engine.url.username}
        async with quick(engine, batch_size=10) as writer:
            await writer.send(sent[0], wait="committed")
            await tell(rwriter_engines, f"REVOKE INSERT ON requests FROM {role}")
            for item in sent[1:]:
                await writer.send(item)
            await eventually(lambda: writer.health.state == "holding")
            assert "42501" in (writer.health.error or "")
            await tell(rwriter_engines, f"GRANT INSERT ON requests TO {role}")
            await writer.flush(timeout=30)
    assert (writer.stats.persisted, writer.stats.dead, writer.stats.dropped) == (40, 0, 0)


def test_a_store_that_began_before_the_refusal_is_no_evidence() -> None:
    outage = Outage(Options())
    beside, refused = outage.begin(), outage.begin()
    outage.stored_by(beside)
    assert not outage.took_others_since(refused)
    outage.stored_by(outage.begin())
    assert outage.took_others_since(refused)
    assert not outage.took_others_since(None)


async def test_a_record_whose_letter_is_refused_too_is_set_aside_in_the_spool(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    await refuse(rwriter_engines, raising("45000"))
    await tell(rwriter_engines, "ALTER TABLE dead_letters ADD CHECK (sqlstate <> '45000')")
    sent = offered({1}, 5)
    spool = Spool(tmp_path)
    async with quick(rwriter_engines, spool=spool) as writer:
        for item in sent:
            writer.send_nowait(item)
        await writer.flush(timeout=30)
        (kept,) = await spool.listing()
        assert (kept.request_id, kept.reason is not None) == (sent[1].request_id, True)
        assert await asyncio.wait_for(spool.count(), 5) == 0

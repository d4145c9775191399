"""A busy flush keeps its connection from one batch to the next; an idle one has given it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from rwriter import DbEngines, RequestStore, RequestsWriter
from rwriter.store import _connections
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually
from tests.support.fates import balanced, ids, stored
from tests.support.faults import refuse_bad_bodies, table_locked
from tests.support.records import record

BATCHES = 20


@pytest.fixture
async def engines(rwriter_database: str) -> AsyncIterator[DbEngines]:
    async with DbEngines.from_url(rwriter_database) as made:
        yield made


class Checkouts:
    """Counts how often the pool lends a connection to the writer."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, *_: Any) -> None:
        self.number += 1


@contextmanager
def checkouts(engines: DbEngines) -> Iterator[Checkouts]:
    counted, pool = Checkouts(), engines.write.sync_engine.pool
    event.listen(pool, "checkout", counted)
    yield counted
    event.remove(pool, "checkout", counted)


def one_by_one(engines: DbEngines, **options: Any) -> RequestsWriter:
    return RequestsWriter(engines, batch_size=1, flush_concurrency=1, check_schema=False, **options)


async def send(writer: RequestsWriter) -> None:
    for _ in range(BATCHES):
        writer.send_nowait(record())
    await writer.flush()


def lent(engines: DbEngines) -> int:
    return int(engines.write.sync_engine.pool.checkedout())  # type: ignore[attr-defined]


def invalidations(engines: DbEngines) -> list[Any]:
    """Return a list that grows with each connection that is not used again."""
    found: list[Any] = []
    event.listen(engines.write.sync_engine.pool, "invalidate", lambda *given: found.append(given))
    return found


async def test_batches_that_follow_each_other_share_a_checkout(engines: DbEngines) -> None:
    async with one_by_one(engines) as writer:
        with checkouts(engines) as counted:
            await send(writer)
            assert counted.number == 1
            await eventually(lambda: lent(engines) == 0)
            await send(writer)
            assert counted.number == 2
    assert writer.stats.persisted == 2 * BATCHES


async def test_the_pool_has_it_back_after_a_time(engines: DbEngines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connections, "KEPT_FOR", -1.0)
    async with one_by_one(engines) as writer:
        with checkouts(engines) as counted:
            await send(writer)
    assert counted.number == BATCHES


async def test_a_pool_without_another_has_it_back_after_each_batch(rwriter_database: str) -> None:
    async with DbEngines.from_url(rwriter_database, pool_size=1) as engines, one_by_one(engines) as writer:
        with checkouts(engines) as counted:
            await send(writer)
        assert counted.number == BATCHES


async def test_nothing_is_kept_outside_of_a_writer(engines: DbEngines) -> None:
    await RequestStore(engines).persist_completed([record()])
    assert lent(engines) == 0


async def test_a_connection_that_dies_while_it_is_kept_is_replaced_in_silence(
    engines: DbEngines, rwriter_engines: TestDbEngines
) -> None:
    sent = [record() for _ in range(3)]
    async with one_by_one(engines) as writer:
        async with table_locked(rwriter_engines):
            # the first waits for the table, on a connection that is closed under it
            for each in sent:
                writer.send_nowait(each)
            await eventually(lambda: _blocked(rwriter_engines))
            async with rwriter_engines.write.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.execute(text(f"SELECT pg_terminate_backend(pid) {_WAITING}"))
        await writer.flush()
    assert await stored(rwriter_engines) == ids(sent)
    assert writer.stats.retries == 0


_WAITING = (
    "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND backend_type = 'client backend'"
)


async def _blocked(engines: TestDbEngines) -> bool:
    async with engines.write.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        return bool((await connection.execute(text(f"SELECT count(*) {_WAITING}"))).scalar_one())


async def test_a_time_out_under_a_flush_kills_its_connection(
    engines: DbEngines, rwriter_engines: TestDbEngines
) -> None:
    invalidated = invalidations(engines)
    async with one_by_one(engines, flush_timeout=0.2, retry_base_delay=0.01) as writer:
        async with table_locked(rwriter_engines):
            await writer.send(record())
            await eventually(lambda: len(invalidated) > 0)
        await writer.flush()
        assert balanced(writer.stats)
        assert writer.stats.persisted == 1
    assert lent(engines) == 0


async def test_a_refused_record_goes_back_with_its_connection(
    engines: DbEngines, rwriter_engines: TestDbEngines
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    async with one_by_one(engines) as writer:
        writer.send_nowait(record(response_body="bad"))
        await send(writer)
    assert (writer.stats.persisted, writer.stats.dead) == (BATCHES, 1)
    assert lent(engines) == 0


# -- through the driver, and yet SQLAlchemy's


async def test_an_error_is_sqlalchemys_and_quotes_no_body(engines: DbEngines, rwriter_engines: TestDbEngines) -> None:
    await refuse_bad_bodies(rwriter_engines)
    with pytest.raises(DBAPIError) as caught:
        await RequestStore(engines).persist_completed([record(response_body="bad", request_body="a secret")])
    assert type(caught.value).__name__ == "IntegrityError"
    assert "a secret" not in str(caught.value)
    assert not caught.value.connection_invalidated
    assert caught.value.params is None


async def test_listeners_for_statements_hear_of_a_flush(engines: DbEngines) -> None:
    heard: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    store, sync = RequestStore(engines), engines.write.sync_engine
    event.listen(sync, "before_cursor_execute", hear)
    await store.persist_completed([record()])
    assert sum("INSERT INTO requests" in statement for statement in heard) == 1


async def test_listeners_for_errors_hear_of_a_refusal(engines: DbEngines, rwriter_engines: TestDbEngines) -> None:
    await refuse_bad_bodies(rwriter_engines)
    heard: list[Any] = []
    event.listen(engines.write.sync_engine, "handle_error", lambda context: heard.append(context.sqlalchemy_exception))
    with pytest.raises(DBAPIError):
        await RequestStore(engines).persist_completed([record(response_body="bad")])
    assert len(heard) == 1


async def test_a_cancelled_statement_kills_its_connection(engines: DbEngines, rwriter_engines: TestDbEngines) -> None:
    store, invalidated = RequestStore(engines), invalidations(engines)
    async with table_locked(rwriter_engines):
        storing = asyncio.create_task(store.persist_completed([record()]))
        await eventually(lambda: _blocked(rwriter_engines))
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
    assert (lent(engines), len(invalidated)) == (0, 1)
    assert (await store.persist_completed([record()])).inserted == 1

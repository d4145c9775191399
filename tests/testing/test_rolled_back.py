"""``rolled_back``: writer and reader inside one outer transaction, of which nothing stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import DbEngines, RequestStore, RequestsWriter
from rwriter._database_errors import sqlstate_of
from rwriter.engines._urls import connect_arguments
from rwriter.testing import TestDbEngines, rolled_back
from tests.support.records import record


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(rwriter_database: str, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """A service's own engine, on either driver."""
    url, _ = connect_arguments(rwriter_database)
    made = create_async_engine(url.set(drivername=f"postgresql+{request.param}"), poolclass=NullPool)
    yield made
    await made.dispose()


async def rows(engine: AsyncEngine) -> int:
    """Number of requests, seen from another connection than the outer transaction's."""
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM requests"))).scalar_one())


async def test_what_the_writer_stores_is_read_inside_and_is_gone_afterwards(engine: AsyncEngine) -> None:
    kept = record()
    async with rolled_back(engine) as engines:
        async with RequestsWriter(engines) as writer:
            await writer.send(kept, wait="committed")
        found = await RequestStore(engines).get_request(kept.request_id)
        assert found is not None
        assert found.status == "completed"
        assert await rows(engine) == 0  # nobody else sees it
    assert await rows(engine) == 0


async def test_a_record_that_is_refused_takes_no_other_with_it(engine: AsyncEngine) -> None:
    async with rolled_back(engine) as engines:
        async with engines.write.begin() as connection:
            await connection.execute(text("ALTER TABLE requests ADD CONSTRAINT no_bad CHECK (model <> 'bad')"))
        good = [record() for _ in range(5)]
        async with RequestsWriter(engines) as writer:
            for one in (*good[:3], record(model="bad"), *good[3:]):
                await writer.send(one)
            await writer.flush(20)
            assert writer.stats.dead == 1
        store = RequestStore(engines)
        assert all([await store.get_request(one.request_id) is not None for one in good])


async def test_what_the_caller_rolls_back_is_undone_inside_too(engine: AsyncEngine) -> None:
    async with rolled_back(engine) as engines:
        await RequestStore(engines).persist_completed([record()])
        async with engines.write.connect() as connection:
            await connection.execute(text("DELETE FROM requests"))
            await connection.rollback()
        assert await rows(engines.write) == 1


async def test_the_reader_refuses_to_write_and_the_writer_writes_after_it(engine: AsyncEngine) -> None:
    async with rolled_back(engine) as engines:
        with pytest.raises(DBAPIError) as refused:
            async with engines.read.begin() as connection:
                await connection.execute(text("DELETE FROM requests"))
        assert sqlstate_of(refused.value) == "25006"
        assert (await RequestStore(engines).persist_completed([record()])).inserted == 1


async def test_readers_and_writers_take_turns(engine: AsyncEngine) -> None:
    async with rolled_back(engine) as engines:
        store = RequestStore(engines)
        written = [record() for _ in range(20)]
        await asyncio.gather(
            *(store.persist_completed([one]) for one in written), *(store.list_requests() for _ in written)
        )
        assert await rows(engines.write) == 20
        await store.fail_stale(timedelta(hours=1))
        assert (await store.erase("tenant-a")).requests == 20


async def test_a_statement_that_was_cancelled_is_undone_alone(engine: AsyncEngine) -> None:
    async with rolled_back(engine) as engines:
        await RequestStore(engines).persist_completed([record()])
        entered = asyncio.Event()

        async def erase_and_wait() -> None:
            async with engines.write.begin() as connection:
                await connection.execute(text("DELETE FROM requests"))
                entered.set()
                await connection.execute(text("SELECT pg_sleep(60)"))

        task = asyncio.create_task(erase_and_wait())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await rows(engines.write) == 1


async def test_a_test_that_fails_leaves_nothing_either(engine: AsyncEngine) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- the error comes after rows are in
        async with rolled_back(engine) as engines:
            await RequestStore(engines).persist_completed([record()])
            raise ZeroDivisionError
    assert await rows(engine) == 0


async def test_an_engine_that_commits_each_statement_is_in_a_transaction_all_the_same(engine: AsyncEngine) -> None:
    async with rolled_back(engine.execution_options(isolation_level="AUTOCOMMIT")) as engines:
        await RequestStore(engines).persist_completed([record()])
    assert await rows(engine) == 0


async def test_committing_each_statement_keeps_what_succeeded_until_the_end(engine: AsyncEngine) -> None:
    async with rolled_back(engine) as engines:
        each = engines.write.execution_options(isolation_level="AUTOCOMMIT")
        async with each.connect() as connection:
            await connection.execute(text("CREATE TABLE once (number int PRIMARY KEY)"))
            await connection.execute(text("INSERT INTO once VALUES (1)"))
            with pytest.raises(IntegrityError):
                await connection.execute(text("INSERT INTO once VALUES (1)"))
            await connection.execute(text("INSERT INTO once VALUES (2)"))
        async with engines.write.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM once"))).scalar_one() == 2
            # and no longer each by itself
            await connection.execute(text("DELETE FROM once"))
            await connection.rollback()
            assert (await connection.execute(text("SELECT count(*) FROM once"))).scalar_one() == 2


async def test_the_same_row_twice_is_refused_and_the_first_stays(engine: AsyncEngine) -> None:
    async with rolled_back(engine) as engines:
        async with engines.write.begin() as connection:
            await connection.execute(text("CREATE TABLE once (number int PRIMARY KEY)"))
            await connection.execute(text("INSERT INTO once VALUES (1)"))
        with pytest.raises(IntegrityError):
            async with engines.write.begin() as connection:
                await connection.execute(text("INSERT INTO once VALUES (1)"))
        async with engines.write.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM once"))).scalar_one() == 1


def wrong_things() -> dict[str, Any]:
    """Return things that are no engine of a service's tests."""
    return {
        "None": None,
        "a URL": "postgresql://u@h/d",
        "a sync engine": create_engine("sqlite://"),
        "a class": AsyncEngine,
        "a provider": DbEngines(create_async_engine("postgresql+asyncpg://u@h/d")),
    }


@pytest.mark.parametrize("thing", wrong_things())
async def test_what_is_no_engine_is_a_type_error(thing: str) -> None:
    with pytest.raises(TypeError, match="must be a sqlalchemy AsyncEngine"):
        TestDbEngines(wrong_things()[thing])
    with pytest.raises(TypeError, match="must be a sqlalchemy AsyncEngine"):
        async with rolled_back(wrong_things()[thing]):
            pass

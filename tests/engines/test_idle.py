"""Connections that died while they were idle: nobody who asks for one hears of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rwriter import DbEngines, RequestStore, RequestsWriter, new_request_id
from rwriter.engines._urls import connect_arguments
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually
from tests.support.faults import proxy_to
from tests.support.records import new_request, record

OPERATIONS: dict[str, Any] = {
    "get": lambda store: store.get_request(new_request_id()),
    "get from the primary": lambda store: store.get_request(new_request_id(), consistent=True),
    "find": lambda store: store.find_request("unknown", "tenant-a"),
    "list": lambda store: store.list_requests(),
    "create": lambda store: store.create_realtime(new_request()),
    "persist": lambda store: store.persist_completed([record()]),
    "delete": lambda store: store.delete_request(new_request_id()),
    "erase": lambda store: store.erase("tenant-a"),
    "purge": lambda store: store.purge(datetime(2020, 1, 1, tzinfo=UTC)),
    "fail_stale": lambda store: store.fail_stale(timedelta(hours=1)),
    "check": lambda store: store.check_schema(),
}


async def fill(engine: AsyncEngine, number: int = 3) -> None:
    """Leave ``number`` idle connections in the pool of ``engine``."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(number):
            connection = await stack.enter_async_context(engine.connect())
            await connection.execute(text("SELECT 1"))


async def close_idle(engine: AsyncEngine) -> None:
    """Have the server close every other connection to the database of ``engine``, and wait until it has."""
    others = (
        "FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    # each look in a transaction of its own: within one the view does not change
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))

        async def gone() -> bool:
            return not (await connection.execute(text(f"SELECT count(*) {others}"))).scalar_one()

        await eventually(gone)


@pytest.fixture
async def engines(rwriter_database: str) -> AsyncIterator[DbEngines]:
    async with DbEngines.from_url(rwriter_database, pool_size=3) as made:
        yield made


@pytest.fixture
async def plain(rwriter_database: str) -> AsyncIterator[AsyncEngine]:
    """An engine that a service made, without anything of this library's."""
    url, arguments = connect_arguments(rwriter_database)
    made = create_async_engine(url, connect_args=arguments)
    yield made
    await made.dispose()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_connections_that_the_server_closed_are_replaced_in_silence(
    engines: DbEngines, rwriter_engines: TestDbEngines, operation: str
) -> None:
    await fill(engines.write)
    await fill(engines.read)
    await close_idle(rwriter_engines.write)
    await OPERATIONS[operation](RequestStore(engines))


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_so_are_those_of_an_engine_that_the_service_made(
    plain: AsyncEngine, rwriter_engines: TestDbEngines, operation: str
) -> None:
    await fill(plain)
    await close_idle(rwriter_engines.write)
    # the driver has heard of it once the loop has turned
    await asyncio.sleep(0)
    await OPERATIONS[operation](RequestStore(plain))


async def test_a_time_out_condemns_every_connection_that_was_idle_as_long(rwriter_database: str) -> None:
    async with proxy_to(rwriter_database) as proxy:
        through = proxy.url(rwriter_database)
        async with DbEngines.from_url(through, statement_timeout=1) as engines, RequestsWriter(engines) as writer:
            await fill(engines.write, 5)
            proxy.forget()
            await asyncio.wait_for(writer.send(record(), wait="committed"), 20)
            retries = writer.stats.retries
    # each of five silent connections would have cost one
    assert retries == 1


async def test_readers_take_no_connection_of_a_flush(engines: DbEngines) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(engines.read.connect())
        result = await asyncio.wait_for(RequestStore(engines).persist_completed([record()]), 20)
    assert result.inserted == 1
    assert not RequestStore(engines).has_replica


async def test_callers_hear_of_nothing_while_connections_are_closed_at_random(
    engines: DbEngines, rwriter_engines: TestDbEngines
) -> None:
    store = RequestStore(engines)
    done = 0

    async def mixed(writer: RequestsWriter) -> None:
        nonlocal done
        for _ in range(15):
            kept = record(created_by="kept")
            # the writer's flushes have retries beside the store's own
            await writer.send(kept, wait="committed")
            assert await store.get_request(kept.request_id) is not None
            await store.list_requests()
            new = new_request(created_by="kept")
            await store.create_realtime(new)
            assert await store.delete_request(new.request_id)
            await store.erase("nobody")
            done += 1

    async with RequestsWriter(store) as writer:
        work = asyncio.gather(*(mixed(writer) for _ in range(3)))
        while not work.done():
            async with rwriter_engines.write.connect() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                        "AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
                    )
                )
            # a pace, no wait for anything: faster, and an operation meets one after another
            await asyncio.sleep(0.02)
        await work
        assert (done, writer.stats.persisted) == (45, 45)


async def test_a_password_is_asked_for_at_each_connect(rwriter_database: str) -> None:
    asked: list[str] = []

    async def token() -> str:
        asked.append("token")
        return f"token-{len(asked)}"

    async with DbEngines.from_url(rwriter_database, password=token) as engines:
        await fill(engines.write, 2)
        await eventually(lambda: len(asked) == 2)

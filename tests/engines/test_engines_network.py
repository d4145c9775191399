"""from_url's engines on a network that fails: every wait ends, the error is transient, the pool is sound afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from rwriter import DbEngines, RequestStore, new_request_id
from rwriter._database_errors import Kind, failure_of
from rwriter.schema import requests
from rwriter.testing import TcpProxy
from tests.support.driving import eventually
from tests.support.records import record
from tests.support.rows import rows, run_sql, sessions

SHORT: Any = {"connect_timeout": 0.5, "statement_timeout": 0.5, "pool_timeout": 0.5}
DEADLINE = 60.0
"""Seconds after which a call that should have given up has hung. No claim is made of how long it takes."""


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[TcpProxy]:
    server = make_url(database)
    assert server.host is not None
    assert server.port is not None
    async with TcpProxy(server.host, server.port) as proxy:
        yield proxy


async def failure(call: Awaitable[object]) -> Kind:
    """Return the class of ``call``'s failure; without one, or past the deadline, the test fails."""
    async with asyncio.timeout(DEADLINE):
        try:
            await call
        except Exception as exc:  # noqa: BLE001 -- every error must be classified
            return failure_of(exc)
    pytest.fail("the call did not fail")


def in_use(engine: AsyncEngine) -> int:
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


@pytest.mark.parametrize("call", ["persist", "get", "list"])
async def test_a_peer_that_stops_answering_costs_an_error_and_no_connection(
    proxy: TcpProxy, database: str, schema: str | None, engine: AsyncEngine, call: str
) -> None:
    async with DbEngines.from_url(
        proxy.url(database), schema=schema, pool_size=2, application_name="stalled", **SHORT
    ) as engines:
        store = RequestStore(engines)
        await store.persist_completed([record()])
        proxy.stall()
        # one after the other and many at once: each gives up, and none leaves its connection checked out
        assert await failure(ask(store, call)) is Kind.TRANSIENT
        assert await asyncio.gather(*(failure(ask(store, call)) for _ in range(6))) == [Kind.TRANSIENT] * 6
        assert in_use(engines.write) == 0

        proxy.heal()

        async def works_again() -> bool:
            with contextlib.suppress(OSError, DBAPIError):  # what was stalled is reset as it is found
                return (await store.persist_completed([record()])).inserted == 1
            return False

        await eventually(works_again)
        assert in_use(engines.write) == 0

        async def no_more_than_the_pool() -> bool:
            return await sessions(engine, "stalled") <= 2

        await eventually(no_more_than_the_pool)
    await eventually(lambda: none_left(engine, "stalled"))


async def ask(store: RequestStore, call: str) -> object:
    if call == "persist":
        return await store.persist_completed([record()])
    return await (store.get_request(new_request_id()) if call == "get" else store.list_requests())


async def none_left(engine: AsyncEngine, name: str) -> bool:
    return await sessions(engine, name) == 0


async def test_a_peer_that_never_answered_at_all_is_given_up_too(
    proxy: TcpProxy, database: str, schema: str | None
) -> None:
    proxy.stall()
    async with DbEngines.from_url(proxy.url(database), schema=schema, **SHORT) as engines:
        store = RequestStore(engines)
        assert await failure(store.persist_completed([record()])) is Kind.TRANSIENT
        proxy.heal()
        assert (await store.persist_completed([record()])).inserted == 1


async def test_a_statement_that_takes_too_long_is_given_up_and_stopped_in_the_server(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    given = record()
    async with DbEngines.from_url(database, schema=schema, application_name="waiting", **SHORT) as engines:
        store = RequestStore(engines)
        async with engine.connect() as connection:
            # another writer holds the id and does not let go
            await connection.execute(
                requests.insert().values(
                    id=given.request_id, model="m", created_by="t", state="canceled", canceled_at=given.started_at
                )
            )
            assert await failure(store.persist_completed([given])) is Kind.TRANSIENT

            async def nobody_waits() -> bool:
                found = await run_sql(
                    engine, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'waiting' AND state = 'active'"
                )
                return not found

            await eventually(nobody_waits)
            await connection.rollback()
        assert in_use(engines.write) == 0
        assert (await store.persist_completed([given])).inserted == 1
    assert len(await rows(engine, requests)) == 1


async def test_a_pool_with_no_connection_to_spare_is_a_transient_failure(database: str, schema: str | None) -> None:
    async with DbEngines.from_url(database, schema=schema, pool_size=1, **SHORT) as engines:
        store = RequestStore(engines)
        async with engines.write.connect():
            assert await failure(store.persist_completed([record()])) is Kind.TRANSIENT
        assert (await store.persist_completed([record()])).inserted == 1


async def test_a_line_that_is_cut_is_a_transient_failure_and_the_next_call_connects_anew(
    proxy: TcpProxy, database: str, schema: str | None, engine: AsyncEngine
) -> None:
    async with DbEngines.from_url(proxy.url(database), schema=schema, pool_size=1, **SHORT) as engines:
        store = RequestStore(engines)
        await store.persist_completed([record()])
        proxy.cut()
        assert await failure(store.persist_completed([record()])) is Kind.TRANSIENT
        assert await failure(store.persist_completed([record()])) is Kind.TRANSIENT
        proxy.heal()
        assert (await store.persist_completed([record()])).inserted == 1
        assert in_use(engines.write) == 0
    assert len(await rows(engine, requests)) == 2


async def test_a_call_that_is_cancelled_gives_its_connection_back(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    given = record()
    async with DbEngines.from_url(database, schema=schema, pool_size=1) as engines:
        store = RequestStore(engines)
        async with engine.connect() as connection:
            await connection.execute(
                requests.insert().values(
                    id=given.request_id, model="m", created_by="t", state="canceled", canceled_at=given.started_at
                )
            )
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(store.persist_completed([given]), 0.1)
            await connection.rollback()
        assert in_use(engines.write) == 0
        async with asyncio.timeout(DEADLINE):
            assert (await store.persist_completed([given])).inserted == 1


async def test_a_session_that_turned_read_only_is_given_up_for_a_new_one(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    async with DbEngines.from_url(database, schema=schema, pool_size=1) as engines:
        store = RequestStore(engines)
        # as after a switch of primary and standby behind one address
        await run_sql(engines.write, "SET default_transaction_read_only = on")
        assert await failure(store.persist_completed([record()])) is Kind.TRANSIENT
        assert (await store.persist_completed([record()])).inserted == 1
    assert len(await rows(engine, requests)) == 1


async def test_a_host_that_is_silent_does_not_keep_the_next_host_from_being_asked(
    proxy: TcpProxy, database: str, schema: str | None
) -> None:
    # not refused, as by a stopped server, but without answer, as from a machine that is gone
    proxy.stall()
    silent_first = database.replace("@", f"@127.0.0.1:{proxy.port},", 1)
    async with DbEngines.from_url(silent_first, schema=schema, connect_timeout=2, pool_size=1) as engines:
        async with asyncio.timeout(DEADLINE):
            assert (await RequestStore(engines).persist_completed([record()])).inserted == 1


async def test_closing_engines_whose_peer_went_silent_ends_and_leaves_no_task(proxy: TcpProxy, database: str) -> None:
    engines = DbEngines.from_url(proxy.url(database), pool_size=2)
    async with engines.write.connect(), engines.write.connect():
        pass  # two connections, idle from here on
    proxy.stall()
    async with asyncio.timeout(DEADLINE):
        await engines.aclose()
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert [name for name in names if name.startswith("Connection.")] == []

"""from_url(pgbouncer=True) behind a real PgBouncer in transaction mode: every transaction may get another session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import DbEngines, RequestFilter, RequestStore, migrate
from rwriter.schema import requests
from tests.support.migrations import column, execute, tables_in
from tests.support.pooler import PgBouncer
from tests.support.records import new_request, record
from tests.support.rows import Counts, rows, template_ids

SERVER_CONNECTIONS = 4


@pytest.fixture(scope="module")
def pooler(rwriter_postgres: str) -> Iterator[PgBouncer]:
    server = make_url(rwriter_postgres)
    assert server.host is not None
    assert server.port is not None
    made = PgBouncer(server.port, host=server.host, pool_size=SERVER_CONNECTIONS)
    with asyncio.Runner() as runner:
        runner.run(made.__aenter__())
        yield made
        runner.run(made.__aexit__(None, None, None))


@pytest.fixture
def pooled(pooler: PgBouncer, database: str, schema: str | None) -> DbEngines:
    return DbEngines.from_url(pooler.url(database), schema=schema, pgbouncer=True)


async def test_many_writers_share_few_sessions(pooled: DbEngines, engine: AsyncEngine) -> None:
    store = RequestStore(pooled)
    tasks, calls, size = 40, 5, 10

    async def writer() -> int:
        return sum([(await store.persist_completed([record() for _ in range(size)])).inserted for _ in range(calls)])

    assert sum(await asyncio.gather(*(writer() for _ in range(tasks)))) == tasks * calls * size
    assert len(await rows(engine, requests)) == len(await template_ids(engine)) == tasks * calls * size
    async with engine.connect() as connection:
        query = text("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
        assert (await connection.execute(query)).scalar_one() <= SERVER_CONNECTIONS


@pytest.mark.both_schemas
async def test_every_call_of_the_store_works_beside_the_others(pooled: DbEngines, engine: AsyncEngine) -> None:
    store = RequestStore(pooled)

    async def life_of_a_request() -> None:
        new, given = new_request(), record(custom_id="chatcmpl-1")
        await store.create_realtime(new)
        finished = await store.persist_completed([record(request_id=new.request_id), given])
        assert finished == Counts(inserted=1, updated=1, skipped=0)
        assert await store.finished_ids([given.request_id]) == {given.request_id}
        assert await store.get_request(given.request_id) is not None
        page = await store.list_requests(RequestFilter(models=["gpt-test", "x"], active_first=True))
        assert page.data
        assert await store.fail_stale(timedelta(hours=1)) == 0
        assert await store.delete_request(new.request_id)

    await asyncio.gather(*(life_of_a_request() for _ in range(20)))
    await store.check_schema()
    assert len(await rows(engine, requests)) == len(await template_ids(engine)) == 20


async def test_no_prepared_statement_is_left_in_the_servers_sessions(pooled: DbEngines) -> None:
    store = RequestStore(pooled)
    for _ in range(20):
        await store.persist_completed([record()])
        await store.list_requests()
    # one after the other, the calls had one session: what each of them left behind would be there still
    async with pooled.write.connect() as connection:
        left = (await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))).scalar_one()
    assert left <= 2


async def test_a_large_batch_passes_through_the_pooler(pooled: DbEngines, engine: AsyncEngine) -> None:
    batch = [record(response_body="ä" * 100_000) for _ in range(50)]
    assert (await RequestStore(pooled).persist_completed(batch)).inserted == 50
    assert {row["response_size"] for row in await rows(engine, requests)} == {200_000}


async def test_an_upgrade_leaves_no_lock_and_no_setting_on_a_session_that_is_others_next(
    pooler: PgBouncer, empty_database: str
) -> None:
    # all in one transaction: the second revision takes the first with it
    await execute(empty_database, "CREATE TABLE erasures ()")
    with pytest.raises(Exception, match="already exists"):
        await migrate.upgrade(pooler.url(empty_database))
    assert await tables_in(empty_database) == ["erasures"]
    await execute(empty_database, "DROP TABLE erasures")

    await migrate.upgrade(pooler.url(empty_database))
    await migrate.check(pooler.url(empty_database))
    assert await column(empty_database, "SELECT pid FROM pg_locks WHERE locktype = 'advisory'") == []
    async with DbEngines.from_url(pooler.url(empty_database), pgbouncer=True) as engines:
        async with engines.write.connect() as connection:
            assert (await connection.execute(text("SHOW lock_timeout"))).scalar_one() == "0"

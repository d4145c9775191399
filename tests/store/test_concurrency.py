"""Writers in each other's way: overlapping ids, races for one id, and a commit whose acknowledgement is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter import CompletedRequest, DbEngines, PersistResult, RequestExists, RequestStore, new_request_id
from rwriter._database_errors import Kind, failure_of
from rwriter.schema import request_templates, requests
from rwriter.testing import TcpProxy
from tests.support.driving import eventually
from tests.support.records import new_request, record
from tests.support.rows import (
    Counts,
    in_state,
    insert_request,
    lock_waits,
    one,
    quoted,
    rows,
    run_sql,
    snapshot,
    template_ids,
)

GATE = 4711


@contextlib.asynccontextmanager
async def uncommitted(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection with a transaction for the test to end; rolled back if it does not."""
    async with engine.connect() as connection:
        yield connection


async def deadlocks(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        count: int = (await connection.execute(query)).scalar_one()
    return count


def shuffled(batch: list[CompletedRequest]) -> list[CompletedRequest]:
    """The same records in an order that is neither that of their ids nor its reverse."""
    return sorted(batch, key=lambda given: given.request_id.bytes[::-1])


async def test_rows_are_written_in_id_order_whatever_the_order_given(store: RequestStore, engine: AsyncEngine) -> None:
    batch = [record() for _ in range(50)]
    batch = shuffled(batch)
    await store.persist_completed(batch)
    async with engine.connect() as connection:
        written = (await connection.execute(select(requests.c.id).order_by(text("requests.ctid")))).scalars().all()
    assert list(written) == sorted(given.request_id for given in batch)


async def test_begun_rows_are_finished_in_id_order_too(store: RequestStore, engine: AsyncEngine) -> None:
    batch = [record() for _ in range(50)]
    batch = shuffled(batch)
    for given in batch:
        await insert_request(engine, **in_state("processing", id=given.request_id, service_tier="priority"))
    await store.persist_completed(batch)
    async with engine.connect() as connection:
        written = (await connection.execute(select(requests.c.id).order_by(text("requests.ctid")))).scalars().all()
    assert list(written) == sorted(given.request_id for given in batch)


@pytest.mark.both_variants
async def test_writers_with_overlapping_ids_in_opposite_order_never_deadlock(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    rounds, size = 100, 40
    async with DbEngines.from_url(database, schema=schema, pool_size=4) as engines:
        store = RequestStore(engines)
        for _ in range(rounds):
            batch = [record() for _ in range(size)]
            for given in batch[::4]:
                await insert_request(
                    engines.write, **in_state("processing", id=given.request_id, service_tier="priority")
                )
            orders = (batch, batch[::-1], batch[size // 2 :] + batch[: size // 2], batch[::-1])
            results = await asyncio.gather(*(store.persist_completed(order) for order in orders))
            assert sum(result.inserted + result.updated for result in results) == size
    states = [row["state"] for row in await rows(engine, requests)]
    assert states == ["completed"] * rounds * size
    assert len(await template_ids(engine)) == rounds * (size - len(range(0, size, 4)))
    assert await deadlocks(engine) == 0


async def test_of_two_calls_with_one_id_at_once_one_inserts_and_the_others_skip(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    async with DbEngines.from_url(database, schema=schema, pool_size=4) as engines:
        store = RequestStore(engines)
        for _ in range(25):
            request_id = new_request_id()
            calls = (store.persist_completed([record(request_id=request_id)]) for _ in range(4))
            results = await asyncio.gather(*calls)
            assert sorted(result.inserted for result in results) == [0, 0, 0, 1]
            assert sorted(result.skipped for result in results) == [0, 1, 1, 1]
    stored = await rows(engine, requests)
    assert len(stored) == 25
    assert {row["template_id"] for row in stored} == await template_ids(engine)


async def test_a_call_that_waited_for_a_row_being_begun_finishes_that_row(
    store: RequestStore, engine: AsyncEngine
) -> None:
    given = record()
    async with uncommitted(engine) as connection:
        begun = in_state("processing", service_tier="priority", created_by="tenant-d", model="begun")
        await connection.execute(requests.insert().values(id=given.request_id, **begun))
        call = asyncio.create_task(store.persist_completed([given]))
        await eventually(lambda: lock_waits(engine))
        await connection.commit()
    assert await call == Counts(inserted=0, updated=1, skipped=0)
    row = await one(engine, requests)
    assert (row["model"], row["state"], row["template_id"]) == ("begun", "completed", None)
    assert await template_ids(engine) == set()


async def test_a_call_that_waited_for_a_beginning_that_failed_inserts_its_own_row(
    store: RequestStore, engine: AsyncEngine
) -> None:
    given = record()
    async with uncommitted(engine) as connection:
        begun = in_state("processing", service_tier="priority", created_by="tenant-d", model="begun")
        await connection.execute(requests.insert().values(id=given.request_id, **begun))
        call = asyncio.create_task(store.persist_completed([given]))
        await eventually(lambda: lock_waits(engine))
        await connection.rollback()
    assert await call == Counts(inserted=1, updated=0, skipped=0)
    assert await template_ids(engine) == {(await one(engine, requests))["template_id"]}


@pytest.mark.both_variants
async def test_create_realtime_racing_persist_leaves_one_finished_row_and_its_own_template(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    async with DbEngines.from_url(database, schema=schema) as engines:
        store = RequestStore(engines)
        for _ in range(25):
            new = new_request()
            begun, ended = await asyncio.gather(
                store.create_realtime(new),
                store.persist_completed([record(request_id=new.request_id)]),
                return_exceptions=True,
            )
            assert isinstance(ended, PersistResult)
            assert ended.inserted + ended.updated == 1
            assert begun is None if ended.updated else isinstance(begun, RequestExists)
    stored = await rows(engine, requests)
    assert [row["state"] for row in stored] == ["completed"] * 25
    assert {row["template_id"] for row in stored} == await template_ids(engine)


async def test_a_redelivery_after_a_lost_commit_acknowledgement_changes_nothing(
    database: str, schema: str | None, engine: AsyncEngine, store: RequestStore
) -> None:
    batch = [record(), record(status_code=500)]
    await gate_commits(engine, schema)
    server = make_url(database)
    assert server.host is not None
    async with TcpProxy(server.host, server.port or 5432) as proxy, uncommitted(engine) as gatekeeper:
        async with DbEngines.from_url(proxy.url(database), schema=schema) as engines:
            await gatekeeper.execute(select(func.pg_advisory_lock(GATE)))
            call = asyncio.create_task(RequestStore(engines).persist_completed(batch))
            # the server is in the middle of the commit when the line breaks; it ends it all the same
            await eventually(lambda: lock_waits(engine, "WITH"))
            proxy.drop()
            with pytest.raises(Exception) as lost:  # noqa: PT011 -- whatever the driver says, it must be transient
                await call
            await gatekeeper.execute(select(func.pg_advisory_unlock(GATE)))
    assert failure_of(lost.value) is Kind.TRANSIENT
    await eventually(lambda: stored(engine, 2))
    before = await snapshot(engine)

    assert await store.persist_completed(batch) == Counts(inserted=0, updated=0, skipped=2)

    assert await snapshot(engine) == before
    assert len(await template_ids(engine)) == 2


async def gate_commits(engine: AsyncEngine, schema: str | None) -> None:
    """Make every commit of new requests wait while the advisory lock ``GATE`` is held."""
    table = f"{quoted(schema)}.requests"
    wait = f"BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END"
    await run_sql(engine, f"CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ {wait} $$")
    trigger = f"CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
    await run_sql(engine, f"{trigger} FOR EACH ROW EXECUTE FUNCTION gate()")


async def stored(engine: AsyncEngine, count: int) -> bool:
    return len(await rows(engine, requests)) == count == len(await rows(engine, request_templates))

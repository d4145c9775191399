"""A call asks the server for so much, counted in the server's own log, and happens whole or not at all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rwriter import DbEngines, RequestFilter, RequestStore, new_request_id
from rwriter._database_errors import sqlstate_of
from rwriter.engines import in_schema
from rwriter.engines._urls import connect_arguments
from rwriter.pytest_plugin import BIN_DIR_VARIABLE, Databases
from rwriter.records import decode_record
from rwriter.schema import dead_letters, requests
from rwriter.testing import THROWAWAY, PostgresServer, TestDbEngines
from tests.support.records import new_request, record
from tests.support.rows import in_state, insert_request, one, quoted, rows, snapshot, template_ids

# servers of its own, too
pytestmark = pytest.mark.db

APPLICATION = "counted"


class StatementLog:
    """Return what the sessions named ``counted`` asked the server since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = path.stat().st_size

    def new(self) -> list[str]:
        """The statements' first words, in the order in which the server executed them."""
        with self._path.open(encoding="utf-8") as log:
            log.seek(self._seen)
            lines = log.read().splitlines()
            self._seen = log.tell()
        mine = [line.split("LOG:", 1)[1] for line in lines if line.startswith(f"{APPLICATION}|LOG:")]
        return [(line.split(": ", 1)[1].split() or [""])[0].rstrip(";") for line in mine]


@pytest.fixture(scope="module")
def logging_server() -> Iterator[PostgresServer]:
    settings = THROWAWAY | {"log_statement": "all", "log_line_prefix": "%a|"}
    with PostgresServer(os.environ.get(BIN_DIR_VARIABLE) or None, settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def logging_databases(logging_server: PostgresServer) -> Databases:
    return Databases(logging_server.url())


@pytest.fixture
def counted_url(logging_databases: Databases, schema: str | None) -> str:
    return logging_databases.url(logging_databases.create(logging_databases.template(schema)))


@pytest.fixture
async def counted(counted_url: str, schema: str | None) -> AsyncIterator[RequestStore]:
    """A store whose one connection is open and has asked what the driver asks once."""
    async with DbEngines.from_url(counted_url, schema=schema, pool_size=1, application_name=APPLICATION) as engines:
        store = RequestStore(engines)
        await store.persist_completed([record()])
        await store.create_realtime(new_request())
        await store.get_request(new_request_id())
        yield store


@pytest.fixture
def statements(logging_server: PostgresServer, counted: RequestStore) -> StatementLog:
    return StatementLog(logging_server.data_dir / "log")


@pytest.mark.parametrize("size", [1, 2, 500])
async def test_a_batch_of_any_size_is_one_statement_in_one_transaction(
    counted: RequestStore, statements: StatementLog, size: int
) -> None:
    begun = new_request()
    await counted.create_realtime(begun)
    done = record()
    await counted.persist_completed([done])
    statements.new()

    await counted.persist_completed([record(request_id=begun.request_id), done, *(record() for _ in range(size))])

    assert statements.new() == ["WITH"]


async def test_engines_not_said_to_be_direct_have_a_transaction_begun_around_the_statement(
    counted: RequestStore, counted_url: str, schema: str | None, statements: StatementLog
) -> None:
    url, connect_args = connect_arguments(counted_url)
    connect_args |= {"server_settings": {"application_name": APPLICATION}}
    engine = in_schema(create_async_engine(url, connect_args=connect_args), schema)
    try:
        for store in (RequestStore(engine), RequestStore(DbEngines(engine)), RequestStore(TestDbEngines(engine))):
            await store.persist_completed([record()])
            statements.new()
            await store.persist_completed([record()])
            assert statements.new() == ["BEGIN", "WITH", "COMMIT"]
        direct = RequestStore(DbEngines(engine, direct=True))
        await direct.persist_completed([record()])
        assert statements.new() == ["WITH"]
    finally:
        await engine.dispose()


async def test_an_empty_batch_asks_nothing_of_the_server(counted: RequestStore, statements: StatementLog) -> None:
    await counted.persist_completed([])
    assert statements.new() == []


async def test_create_realtime_is_one_statement(counted: RequestStore, statements: StatementLog) -> None:
    await counted.create_realtime(new_request())
    assert statements.new() == ["WITH"]


async def test_get_request_is_one_statement(counted: RequestStore, statements: StatementLog) -> None:
    await counted.get_request(new_request_id())
    assert statements.new() == ["SELECT"]


async def test_a_batch_with_a_row_the_database_refuses_is_not_stored_at_all(
    store: RequestStore, engine: AsyncEngine, schema: str | None
) -> None:
    begun = new_request()
    await store.create_realtime(begun)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f"ALTER TABLE {quoted(schema)}.requests ADD CONSTRAINT no_poison CHECK (model <> 'poison')"
        )
    before = await snapshot(engine)
    batch = [record(), record(request_id=begun.request_id), record(model="poison"), record()]
    with pytest.raises(IntegrityError) as refused:
        await store.persist_completed(batch)
    assert sqlstate_of(refused.value) == "23514"
    assert await snapshot(engine) == before


async def test_an_error_of_create_realtime_that_is_no_duplicate_is_raised_as_it_is(
    store: RequestStore, engine: AsyncEngine, schema: str | None
) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f"ALTER TABLE {quoted(schema)}.requests ADD CONSTRAINT no_poison CHECK (model <> 'poison')"
        )
    with pytest.raises(IntegrityError):
        await store.create_realtime(new_request(model="poison"))
    assert await snapshot(engine) == [[], []]


@pytest.mark.both_schemas("RequestStore.finished_ids")
async def test_finished_ids_are_those_the_writer_would_skip_as_its_own(
    store: RequestStore, engine: AsyncEngine
) -> None:
    states = [("completed", "priority"), ("failed", "priority"), ("processing", "priority"), ("completed", "flex")]
    ids = [await insert_request(engine, **in_state(state, service_tier=tier)) for state, tier in states]
    batched = await insert_request(engine, **in_state("completed", service_tier="priority", batch_id=new_request_id()))
    assert await store.finished_ids([*ids, batched, new_request_id()]) == set(ids[:2])
    assert await store.finished_ids([]) == set()


@pytest.mark.both_schemas("RequestStore.bury")
async def test_a_buried_record_is_complete_beside_the_reason(store: RequestStore, engine: AsyncEngine) -> None:
    buried = record(response_body="ä" * 1000, custom_id="chatcmpl-1", status_code=500)
    await store.bury(buried, sqlstate="23514", error="refused\0 by \ud800 a check")
    letter = await one(engine, dead_letters)
    assert decode_record(letter["payload"]) == buried
    assert (letter["request_id"], letter["created_by"]) == (buried.request_id, "tenant-a")
    assert (letter["sqlstate"], letter["error"]) == ("23514", "refused\ufffd by \ufffd a check")


@pytest.mark.both_schemas("RequestStore.check_schema")
async def test_nothing_the_writer_does_touches_the_read_engine(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    # a replica that nobody can reach: whoever asks it fails
    async with DbEngines.from_url(database, "postgresql://127.0.0.1:1/nowhere", schema) as engines:
        store = RequestStore(engines)
        begun = new_request()
        await store.create_realtime(begun)
        result = await store.persist_completed([record(), record(request_id=begun.request_id)])
        assert (result.inserted, result.updated) == (1, 1)
        assert await store.finished_ids([begun.request_id]) == {begun.request_id}
        await store.bury(record(), sqlstate=None, error="x")
        await store.check_schema()
        assert await store.fail_stale(timedelta(seconds=1)) == 0
        assert await store.delete_request(begun.request_id)
        assert await store.get_request(begun.request_id, consistent=True) is None
        assert (await store.list_requests(RequestFilter(), consistent=True)).total_count == 1
        with pytest.raises(OSError, match=r"Connect|refused|\[Errno"):
            await store.get_request(begun.request_id)
        with pytest.raises(OSError, match=r"Connect|refused|\[Errno"):
            await store.list_requests()
    assert len(await rows(engine, requests)) == 1
    assert len(await template_ids(engine)) == 1

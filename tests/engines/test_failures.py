"""Failures are provoked on a real server, by real statements, through the driver that the writer uses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import ARRAY, BigInteger, DateTime, SmallInteger, Text, bindparam, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeEngine

from rwriter._database_errors import Kind, describe, failure_of, server_message, sqlstate_of
from rwriter.engines._urls import connect_arguments
from rwriter.pytest_plugin import Databases
from rwriter.testing import TcpProxy

TABLE = "CREATE TABLE t (x int PRIMARY KEY CHECK (x < 100), y text NOT NULL DEFAULT '', z int REFERENCES t (x))"
TRIGGER = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()
"""
VIEW = "CREATE VIEW v AS SELECT * FROM t WHERE x > 5 WITH CHECK OPTION"
LONG_VALUE = "INSERT INTO w SELECT string_agg(md5(i::text), '') FROM generate_series(1, 9999) AS i"
DATA, TRANSIENT, CONFIGURATION = Kind.DATA, Kind.TRANSIENT, Kind.CONFIGURATION

STATEMENTS = [
    ("22012", DATA, ["SELECT 1 / 0"]),
    ("23505", DATA, [TABLE, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)"]),
    ("23514", DATA, [TABLE, "INSERT INTO t VALUES (100)"]),
    ("23502", DATA, [TABLE, "INSERT INTO t VALUES (1, NULL)"]),
    ("23503", DATA, [TABLE, "INSERT INTO t VALUES (1, '', 2)"]),
    ("44000", DATA, [TABLE, VIEW, "INSERT INTO v VALUES (1)"]),
    ("54000", DATA, ["CREATE TABLE w (y text UNIQUE)", LONG_VALUE]),
    ("P0001", DATA, [TABLE, *TRIGGER.split(";\n"), "INSERT INTO t VALUES (1)"]),
    ("42P01", CONFIGURATION, ["SELECT * FROM no_such_table"]),
    ("42703", CONFIGURATION, [TABLE, "SELECT no_such_column FROM t"]),
    ("3F000", CONFIGURATION, ["CREATE TABLE no_such_schema.t (x int)"]),
    ("42501", CONFIGURATION, [TABLE, "SET LOCAL ROLE pg_monitor", "SELECT * FROM t"]),
    ("42601", CONFIGURATION, ["SELECT FROM WHERE"]),
    ("25006", TRANSIENT, ["SET TRANSACTION READ ONLY", TABLE]),
    ("57014", TRANSIENT, ["SET LOCAL statement_timeout = 20", "SELECT pg_sleep(60)"]),
]  # fmt: skip


@asynccontextmanager
async def connected(url: str, **arguments: Any) -> AsyncIterator[AsyncConnection]:
    """A connection of its own to ``url``."""
    async with engine_on(url, **arguments).connect() as connection:
        yield connection


def engine_on(url: str, **arguments: Any) -> AsyncEngine:
    parsed, connect_args = connect_arguments(url)
    return create_async_engine(parsed, connect_args=connect_args | arguments, poolclass=NullPool)


async def run(url: str, *statements: str, **arguments: Any) -> None:
    """Execute all of ``statements`` in one transaction and commit."""
    async with engine_on(url, **arguments).begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def error_of(url: str, *statements: str, **arguments: Any) -> Exception:
    """Return the exception of ``statements``; nothing of them is committed."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the question
        await run(url, *statements, **arguments)
    return caught.value


@pytest.fixture(scope="module")
def shared_database(_rwriter_databases: Databases) -> Iterator[str]:
    """URL of a database for the tests that commit nothing."""
    name = _rwriter_databases.create()
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


@pytest.mark.parametrize(("sqlstate", "kind", "statements"), STATEMENTS, ids=[row[0] for row in STATEMENTS])
async def test_a_refused_statement(shared_database: str, sqlstate: str, kind: Kind, statements: list[str]) -> None:
    error = await error_of(shared_database, *statements)
    assert sqlstate_of(error) == sqlstate
    assert failure_of(error) is kind


@pytest.mark.parametrize("message", ["connection is closed", "Verbindung verweigert", "duplicate key value"])
@pytest.mark.parametrize(("sqlstate", "kind"), [("23505", DATA), ("08006", TRANSIENT), ("42P01", CONFIGURATION)])
async def test_a_servers_words_change_nothing(shared_database: str, sqlstate: str, kind: Kind, message: str) -> None:
    error = await error_of(
        shared_database, f"DO $$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{sqlstate}'; END $$"
    )
    assert message in str(error)
    assert failure_of(error) is kind


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Text(), "\ud800"),
        (ARRAY(Text()), ["fine", "\udfff"]),
        (BigInteger(), 2**63),
        (ARRAY(SmallInteger()), [1, 40_000]),
        (DateTime(timezone=True), datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))),
        (Text(), 5),
    ],
    ids=["surrogate", "surrogate in an array", "bigint", "smallint in an array", "datetime", "no text"],
)
async def test_a_value_the_driver_cannot_encode_is_data(
    shared_database: str, type_: TypeEngine[Any], value: object
) -> None:
    async with connected(shared_database) as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(select(bindparam("x", value, type_)))
    assert failure_of(caught.value) is DATA


async def test_neither_parameters_nor_the_detail_are_in_a_description(empty_database: str) -> None:
    await run(empty_database, "CREATE TABLE t (x text UNIQUE)", "INSERT INTO t VALUES ('SECRET')")
    async with connected(empty_database) as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": "SECRET"})
    error = caught.value
    assert "SECRET" in str(error)
    assert describe(error) == "UniqueViolationError (SQLSTATE 23505)"
    # dead_letters alone is told
    assert "SECRET" in server_message(error)


async def test_a_missing_database_or_role_is_configuration(shared_database: str) -> None:
    url = make_url(shared_database)
    no_database = await error_of(url.set(database="no such database").render_as_string(hide_password=False), "SELECT 1")
    assert (sqlstate_of(no_database), failure_of(no_database)) == ("3D000", CONFIGURATION)
    no_role = await error_of(url.set(username="no such role").render_as_string(hide_password=False), "SELECT 1")
    assert (str(sqlstate_of(no_role))[:2], failure_of(no_role)) == ("28", CONFIGURATION)


@pytest.fixture
def role(_rwriter_databases: Databases) -> Iterator[str]:
    """A role that may connect and is allowed no connection."""
    name = f"rwriter_test_{uuid.uuid4().hex}"
    _rwriter_databases._execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' CONNECTION LIMIT 0")
    yield name
    _rwriter_databases._execute(f"DROP ROLE {name}")


async def test_too_many_connections_are_transient(shared_database: str, role: str) -> None:
    url = make_url(shared_database).set(username=role, password="x")  # noqa: S106
    error = await error_of(url.render_as_string(hide_password=False), "SELECT 1")
    assert (sqlstate_of(error), failure_of(error)) == ("53300", TRANSIENT)


async def test_a_table_locked_by_another_is_transient(empty_database: str) -> None:
    await run(empty_database, TABLE)
    async with connected(empty_database) as other:
        await other.exec_driver_sql("LOCK TABLE t")
        for statement in ("LOCK TABLE t NOWAIT", "SET LOCAL lock_timeout = 1; LOCK TABLE t"):
            error = await error_of(empty_database, *statement.split(";"))
            assert (sqlstate_of(error), failure_of(error)) == ("55P03", TRANSIENT)


async def test_two_serializable_transactions_in_conflict_are_transient(empty_database: str) -> None:
    await run(empty_database, TABLE, "INSERT INTO t VALUES (1)")
    async with connected(empty_database) as one:
        await one.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await one.exec_driver_sql("SELECT * FROM t")
        await run(empty_database, "UPDATE t SET y = 'two'")
        with pytest.raises(DBAPIError) as caught:
            await one.exec_driver_sql("UPDATE t SET y = 'one'")
    assert (sqlstate_of(caught.value), failure_of(caught.value)) == ("40001", TRANSIENT)


async def test_a_deadlock_is_transient(empty_database: str) -> None:
    await run(empty_database, TABLE, "INSERT INTO t VALUES (1), (2)")
    async with connected(empty_database) as one, connected(empty_database) as two:
        for connection, row in ((one, 1), (two, 2)):
            await connection.exec_driver_sql("SET LOCAL deadlock_timeout = 10")
            await connection.exec_driver_sql(f"UPDATE t SET y = 'x' WHERE x = {row}")

        async def cross(connection: AsyncConnection, row: int) -> None:
            try:
                await connection.exec_driver_sql(f"UPDATE t SET y = 'y' WHERE x = {row}")
            finally:
                await connection.rollback()

        answers = await asyncio.gather(cross(one, 2), cross(two, 1), return_exceptions=True)
    (error,) = [answer for answer in answers if answer is not None]
    assert (sqlstate_of(error), failure_of(error)) == ("40P01", TRANSIENT)


async def test_a_backend_terminated_by_the_operator_is_transient(empty_database: str) -> None:
    async with connected(empty_database) as one:
        pid = (await one.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        await run(empty_database, f"SELECT pg_terminate_backend({pid}, 20000)")
        with pytest.raises(DBAPIError) as caught:
            await one.exec_driver_sql("SELECT 1")
        assert failure_of(caught.value) is TRANSIENT
        await one.invalidate()


async def test_a_statement_cut_off_by_the_operator_is_transient(empty_database: str) -> None:
    await run(empty_database, TABLE)
    async with connected(empty_database) as holder, connected(empty_database) as waiter:
        await holder.exec_driver_sql("LOCK TABLE t")
        pid = (await waiter.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        waiting = asyncio.ensure_future(waiter.exec_driver_sql("SELECT * FROM t"))
        await run(empty_database, f"SELECT pg_terminate_backend({pid}, 20000)")
        with pytest.raises(DBAPIError) as caught:
            await waiting
        assert failure_of(caught.value) is TRANSIENT
        await waiter.invalidate()


async def test_a_line_cut_in_the_middle_of_a_statement_is_transient(shared_database: str) -> None:
    url = make_url(shared_database)
    async with TcpProxy(url.host or "localhost", url.port or 5432) as proxy:
        through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        async with connected(through) as one:
            pid = (await one.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            waiting = asyncio.ensure_future(one.exec_driver_sql("SELECT pg_sleep(60)"))
            await sleeping(shared_database, pid)
            proxy.cut()
            with pytest.raises(DBAPIError) as caught:
                await waiting
            assert failure_of(caught.value) is TRANSIENT
            await one.invalidate()
        assert failure_of(await error_of(through, "SELECT 1")) is TRANSIENT
    await run(shared_database, f"SELECT pg_terminate_backend({pid})")


async def sleeping(url: str, pid: int) -> None:
    """Return once backend ``pid`` is in ``pg_sleep``."""
    query = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
    async with asyncio.timeout(20), engine_on(url).connect() as connection:
        while not (await connection.execute(query, {"pid": pid})).scalar_one():
            await connection.rollback()
            await asyncio.sleep(0.01)


async def test_a_plan_that_a_migration_made_stale_is_transient_and_the_next_attempt_works(empty_database: str) -> None:
    await run(empty_database, TABLE)
    async with connected(empty_database) as one:
        await one.exec_driver_sql("SELECT * FROM t")
        await one.commit()
        await run(empty_database, "ALTER TABLE t ADD COLUMN added int")
        with pytest.raises(DBAPIError) as caught:
            await one.exec_driver_sql("SELECT * FROM t")
        assert (sqlstate_of(caught.value), failure_of(caught.value)) == ("0A000", TRANSIENT)
        await one.rollback()
        assert "added" in set((await one.exec_driver_sql("SELECT * FROM t")).keys())


async def test_a_pool_without_a_free_connection_is_transient(shared_database: str) -> None:
    parsed, arguments = connect_arguments(shared_database)
    engine = create_async_engine(
        parsed, connect_args=arguments, pool_size=1, max_overflow=0, pool_timeout=0.01, pool_pre_ping=False
    )
    async with engine.connect():
        with pytest.raises(PoolTimeoutError) as caught:
            async with engine.connect():
                pass
    assert failure_of(caught.value) is TRANSIENT
    await engine.dispose()


async def test_a_deadline_that_passes_is_transient(shared_database: str) -> None:
    by_the_driver = await error_of(shared_database, "SELECT pg_sleep(60)", command_timeout=0.05)
    assert (type(by_the_driver), failure_of(by_the_driver)) == (TimeoutError, TRANSIENT)
    while_connecting = await error_of(shared_database, "SELECT 1", timeout=1e-6)
    assert failure_of(while_connecting) is TRANSIENT
    with pytest.raises(TimeoutError) as by_the_loop:
        async with asyncio.timeout(0.05), connected(shared_database) as connection:
            await connection.exec_driver_sql("SELECT pg_sleep(60)")
    assert failure_of(by_the_loop.value) is TRANSIENT


async def test_no_server_in_the_role_that_was_asked_for_is_transient(shared_database: str) -> None:
    error = await error_of(shared_database + "?target_session_attrs=standby", "SELECT 1")
    assert failure_of(error) is TRANSIENT

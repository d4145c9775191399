"""Errors as psycopg raises them: the same kinds and the same words as asyncpg's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import RequestStore
from rwriter._database_errors import Kind, describe, failure_of, server_message, sqlstate_of
from tests.support.records import record


@pytest.fixture
async def engine(rwriter_database: str) -> AsyncIterator[AsyncEngine]:
    made = engine_of(rwriter_database)
    yield made
    await made.dispose()


def engine_of(url: str, **parts: str | int) -> AsyncEngine:
    """An engine that a service made, with ``parts`` of its URL changed."""
    changed = make_url(url).set(drivername="postgresql+psycopg", **parts)  # type: ignore[arg-type]
    return create_async_engine(changed, poolclass=NullPool, hide_parameters=True)


async def failure(engine: AsyncEngine, statement: str, **parameters: object) -> BaseException:
    """The error that ``statement`` is answered with."""
    with pytest.raises(Exception, match=r".") as caught:
        async with engine.begin() as connection:
            await connection.execute(text(statement), parameters)
    return caught.value


async def connect_failure(engine: AsyncEngine) -> BaseException:
    """The error of a store that cannot connect."""
    with pytest.raises(Exception, match=r".") as caught:
        await RequestStore(engine).persist_completed([record()])
    return caught.value


@pytest.mark.parametrize(
    ("statement", "sqlstate", "kind"),
    [
        ("SELECT 1 / 0", "22012", Kind.DATA),
        ("INSERT INTO requests (state) VALUES ('none of them')", "23502", Kind.DATA),
        ("SELECT * FROM nowhere", "42P01", Kind.CONFIGURATION),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "57P01", Kind.TRANSIENT),
    ],
)
async def test_the_sqlstate_of_a_statement_decides(
    engine: AsyncEngine, statement: str, sqlstate: str, kind: Kind
) -> None:
    raised = await failure(engine, statement)
    assert (sqlstate_of(raised), failure_of(raised)) == (sqlstate, kind)


async def test_a_value_that_the_driver_cannot_send_is_the_records(engine: AsyncEngine) -> None:
    raised = await failure(engine, "SELECT CAST(:value AS text)", value="a\0b")
    assert (sqlstate_of(raised), failure_of(raised)) == (None, Kind.DATA)


async def test_the_letter_has_the_detail_and_the_log_has_not(engine: AsyncEngine) -> None:
    raised = await failure(engine, "INSERT INTO requests (state, model) VALUES ('sideways', 'secret')")
    assert "secret" in server_message(raised)
    assert "DETAIL: Failing row contains" in server_message(raised)
    assert "INSERT" not in server_message(raised)
    assert describe(raised) == "CheckViolation (SQLSTATE 23514)"


async def test_nobody_who_answers_is_an_outage(rwriter_database: str) -> None:
    raised = await connect_failure(engine_of(rwriter_database, port=1))
    assert failure_of(raised) is Kind.TRANSIENT


async def test_what_the_server_says_at_connect_is_told(rwriter_database: str) -> None:
    raised = await connect_failure(engine_of(rwriter_database, database="nowhere", password="hidden-one"))  # noqa: S106
    assert 'database "nowhere" does not exist' in describe(raised)
    assert "hidden-one" not in describe(raised)

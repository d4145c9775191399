"""Failures that no server has a part in are classified, and so is the wait after one."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import RequestsWriter
from rwriter._database_errors import Kind, advice, backoff, describe, explain, failure_of, sqlstate_of
from rwriter.engines._urls import connect_arguments
from tests.support.records import record

SQLSTATES = {
    Kind.TRANSIENT: "08000 08006 08P01 25006 40001 40P01 53100 53200 53300 55P03 57014 57P01 57P03 58030 XX000 0A000",
    Kind.DATA: "22000 22021 22P02 22003 23502 23503 23505 23514 44000 54000 P0001",
    Kind.CONFIGURATION: "42P01 42703 42501 42601 28000 28P01 3D000 3F000 26000 42P05 99999",
}
EVERY_SQLSTATE = [(state, kind) for kind, states in SQLSTATES.items() for state in states.split()]


def server_error(sqlstate: str, message: str) -> Exception:
    """The driver's error for what a server would send."""
    error: Exception = asyncpg.PostgresError.new({"S": "ERROR", "C": sqlstate, "M": message, "D": "Key (x)=(SECRET)"})
    return error


def as_sqlalchemy_raises(error: Exception) -> DBAPIError:
    """The same inside the wrappers of SQLAlchemy and its dialect, parameters and all."""
    adapted = RuntimeError(str(error))
    adapted.__cause__ = error
    return DBAPIError("INSERT INTO t VALUES ($1)", ("SECRET",), adapted)


async def connect_error(url: str, **options: Any) -> Exception:
    """Return the exception of connecting to ``url``."""
    parsed, arguments = connect_arguments(url)
    engine = create_async_engine(parsed, connect_args=arguments | options, poolclass=NullPool)
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the question
        async with engine.connect():
            pass
    return caught.value


@pytest.mark.parametrize(("sqlstate", "kind"), EVERY_SQLSTATE)
@pytest.mark.parametrize("message", ["connection is closed", "doppelter Schlüssel", ""])
def test_the_sqlstate_alone_decides_whatever_the_message_says(sqlstate: str, kind: Kind, message: str) -> None:
    error = server_error(sqlstate, message)
    assert failure_of(error) is failure_of(as_sqlalchemy_raises(error)) is kind
    assert sqlstate_of(as_sqlalchemy_raises(error)) == sqlstate


@pytest.mark.parametrize(("sqlstate", "kind"), EVERY_SQLSTATE)
def test_a_description_names_class_and_sqlstate_and_nothing_of_the_record(sqlstate: str, kind: Kind) -> None:
    error = as_sqlalchemy_raises(server_error(sqlstate, "value SECRET"))
    assert "SECRET" in str(error)
    assert describe(error) == f"{type(server_error(sqlstate, '')).__name__} (SQLSTATE {sqlstate})"
    assert "SECRET" not in advice(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        ConnectionResetError(),
        BrokenPipeError(),
        TimeoutError(),
        socket.gaierror(-2, "Name or service not known"),
        OSError("Multiple exceptions: [Errno 111], [Errno 101]"),
        ssl.SSLError("the other side hung up"),
        asyncpg.InterfaceError("something was closed"),
        asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lost_connection_is_transient(error: Exception) -> None:
    assert failure_of(error) is Kind.TRANSIENT
    assert failure_of(as_sqlalchemy_raises(error)) is Kind.TRANSIENT


def test_a_connection_that_sqlalchemy_gave_up_is_transient() -> None:
    error = DBAPIError("SELECT 1", (), RuntimeError("gone"), connection_invalidated=True)
    assert failure_of(error) is Kind.TRANSIENT


@pytest.mark.parametrize("error", [TypeError("x"), RuntimeError("x"), KeyError("x"), ValueError("x")], ids=repr)
def test_an_error_nobody_expected_never_blames_a_record(error: Exception) -> None:
    assert failure_of(error) is Kind.CONFIGURATION
    assert describe(error) == type(error).__name__


def test_a_certificate_that_cannot_be_trusted_never_blames_a_record() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate has expired")
    assert isinstance(error, ValueError)
    assert failure_of(error) is Kind.CONFIGURATION


async def test_a_closed_port_and_an_unknown_host_are_transient() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = await connect_error(f"postgresql://u@127.0.0.1:{unused.getsockname()[1]}/d")
    assert (type(refused), failure_of(refused)) == (ConnectionRefusedError, Kind.TRANSIENT)
    unknown = await connect_error("postgresql://u@no-such-host.invalid/d")
    assert (type(unknown), failure_of(unknown)) == (socket.gaierror, Kind.TRANSIENT)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@host..name/d",
        f"postgresql://u@{'h' * 70}.example/d",
        "postgresql://u@127.0.0.1:99999/d",
    ],
)
async def test_connection_settings_that_cannot_work_never_blame_a_record(url: str) -> None:
    assert failure_of(await connect_error(url)) is Kind.CONFIGURATION


async def test_a_server_that_is_no_postgresql_is_transient() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert failure_of(await connect_error(f"postgresql://u@127.0.0.1:{port}/d?sslmode=require")) is Kind.TRANSIENT


def unreachable() -> AsyncEngine:
    """An engine whose host name is wrong in a way that no name server is asked about."""
    return create_async_engine("postgresql+asyncpg://u@host..name/d", poolclass=NullPool)


async def test_records_are_not_given_up_before_the_retries_when_the_host_name_is_wrong() -> None:
    async with RequestsWriter(
        unreachable(), max_retries=2, retry_base_delay=0, give_up_after=0, check_schema=False
    ) as writer:
        for _ in range(5):
            await writer.send(record())
        await writer.flush(timeout=20)
        stats = writer.stats
    assert (stats.dropped, stats.dead, stats.persisted) == (5, 0, 0)
    assert stats.retries >= 2


@settings(deadline=None, database=None)
@given(st.integers(0, 10_000), st.floats(0, 100), st.floats(0, 1000))
def test_a_delay_is_within_its_doubling_and_capped_bound(attempt: int, base: float, maximum: float) -> None:
    delay = backoff(attempt, base=base, maximum=maximum)
    least = min(maximum, base * 2 ** min(attempt, 64))
    assert least <= delay <= least * 1.5


def test_delays_spread_from_one_to_one_and_a_half_of_their_doubling() -> None:
    random.seed(20)
    for attempt, least in ((0, 0.1), (3, 0.8), (10, 10.0), (10**9, 10.0)):
        delays = [backoff(attempt, base=0.1, maximum=10.0) for _ in range(500)]
        assert {int((delay / least - 1) * 20) for delay in delays} == set(range(10))


def test_no_delay_at_all_may_be_asked_for() -> None:
    assert backoff(5, base=0.0, maximum=10.0) == 0.0
    assert backoff(5, base=1.0, maximum=0.0) == 0.0


@pytest.mark.parametrize(
    ("sqlstate", "words"),
    [
        ("42P01", "rwriter migrate"),
        ("42703", "rwriter migrate"),
        ("3F000", "--schema"),
        ("3D000", "create the database"),
        ("42501", "grant"),
        ("28P01", "password"),
        ("26000", "pgbouncer=True"),
        ("42P05", "pgbouncer=True"),
        ("42601", "rwriter check"),
        ("0L000", "server's log"),
    ],
)
def test_a_configuration_failure_comes_with_what_the_operator_can_do(sqlstate: str, words: str) -> None:
    assert words in advice(as_sqlalchemy_raises(server_error(sqlstate, "x")))


@pytest.mark.parametrize(
    ("sqlstate", "line"),
    [
        ("3D000", "PostgreSQL says: no luck: create the database, then run `rwriter migrate`"),
        ("28P01", "PostgreSQL says: no luck: check the user, the password and pg_hba.conf"),
        ("0L000", "PostgreSQL says: no luck (SQLSTATE 0L000)"),
    ],
)
def test_a_terminal_gets_the_servers_first_line_and_the_advice_but_no_parameter(sqlstate: str, line: str) -> None:
    error = as_sqlalchemy_raises(server_error(sqlstate, "no luck\nnor SECRET"))
    assert explain(error) == line
    assert explain(ExceptionGroup("of a task group", [error])) == line


def test_a_terminal_gets_no_line_for_an_exception_nobody_foresaw() -> None:
    assert explain(KeyError("x")) is None


def test_a_missing_file_is_no_missing_database() -> None:
    missing = FileNotFoundError(2, "No such file", "traffic")
    assert explain(missing) == "FileNotFoundError: [Errno 2] No such file: 'traffic'"

"""Runs a statement as the driver's own prepared statement, on a connection that SQLAlchemy's pool has lent.

SQLAlchemy's execution costs a statement more processor time than asyncpg's. Everything around it stays SQLAlchemy's:
the pool and its events, the compiled text, a connection's prepared statements, the errors and what they do to the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


def runs_prepared(engine: AsyncEngine) -> bool:
    """Return True where ``fetch_prepared`` does all that ``engine`` would.

    An engine with listeners for its statements, or whose statements are logged, executes them itself. Asked for each
    statement, as listeners come and go. ``do_connect`` and ``handle_error`` are heard on both ways.
    """
    sync = engine.sync_engine
    # SQLAlchemy has no public way to ask for listeners of any kind
    return (
        sync.dialect.driver == "asyncpg"
        and not sync._has_events  # noqa: SLF001
        and not (sync.dialect._has_events and sync.dialect.dispatch.do_execute)  # noqa: SLF001
        and not sync._should_log_info()  # noqa: SLF001
        and not engine.get_execution_options().get("postgresql_readonly", False)
    )


async def fetch_prepared(connection: AsyncConnection, sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Execute ``sql``, with numbered parameters, in a transaction of its own and return the rows.

    ``connection`` must have begun nothing. Raises what ``exec_driver_sql`` would, the connection invalidated where that
    would invalidate it: when it is lost, or the call is cancelled.
    """
    sync = connection.sync_connection
    if sync is None:
        msg = "the connection is not open"
        raise RuntimeError(msg)
    try:
        adapted: Any = sync.connection.dbapi_connection
        # through the cache of SQLAlchemy's adapter, which knows the engine's options for it
        prepared, _ = await adapted._prepare(sql, 0)  # noqa: SLF001
        rows: list[Any] = await prepared.fetch(*parameters)
    except BaseException as exc:
        await connection.run_sync(_raise_as_sqlalchemy, exc, sql)
        raise
    return rows


def _raise_as_sqlalchemy(connection: Connection, exc: BaseException, sql: str) -> NoReturn:
    """Raise ``exc`` as SQLAlchemy would, and have it invalidate the connection and the pool as it would."""
    try:
        _translate(connection, exc)
    except BaseException as error:
        # SQLAlchemy wraps anything that has a statement
        statement = sql if isinstance(error, connection.dialect.loaded_dbapi.Error) else None
        connection._handle_dbapi_exception(error, statement, None, None, None)  # noqa: SLF001
        raise


def _translate(connection: Connection, exc: BaseException) -> NoReturn:
    adapted: Any = connection.connection.dbapi_connection
    if isinstance(exc, Exception):
        adapted._handle_exception(exc)  # noqa: SLF001
    raise exc

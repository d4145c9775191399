"""Connections as the store needs them: for a transaction, and for one statement that is a transaction by itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter._database_errors import (
    forget_locals,
    lost_connection,
    mark_connecting,
    mark_uncommitted,
    sqlstate_of,
)
from rwriter.engines import EngineProvider, as_provider, hiding_parameters, in_schema, schema_of
from rwriter.engines._pools import condemn_idle, has_spare
from rwriter.engines._prepared import fetch_prepared, runs_prepared

T = TypeVar("T")

Compiled: TypeAlias = tuple[str, tuple[str, ...]]
"""A statement's text, and the names of its numbered parameters in their order; none where they are named."""

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")

_READ_ONLY = "25006"

_IS_PARTITIONED: Final = text("SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(:name))")

_MOST_DEAD: Final = 8
"""Dead connections that an operation may meet in a row before its caller hears of them."""

KEPT_FOR: Final = 5.0
"""Seconds that a busy task keeps a connection, before the pool has it back: it may recycle it, or run its events."""


class Connections:
    """A provider's engines, their tables looked up in ``schema``.

    A single statement needs no BEGIN and no COMMIT, which are two more round trips. It is sent without them where the
    provider is ``direct``; see ``DbEngines``.
    """

    def __init__(self, engines: EngineProvider | AsyncEngine, schema: str | None) -> None:
        provider = as_provider(engines)
        self.write: Final = hiding_parameters(in_schema(provider.write, schema))
        self.read: Final = hiding_parameters(in_schema(provider.read, schema))
        direct = getattr(provider, "direct", False)
        apart = self.read.sync_engine.pool is not self.write.sync_engine.pool
        self.has_replica: Final[bool] = getattr(provider, "has_replica", apart)
        self._partitioned: bool | None = None
        self._autocommit: Final = {engine: _autocommit(engine) for engine in (self.write, self.read) if direct}

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for statements that happen together or not at all."""
        async with connected(self.write, writing=True) as connection, connection.begin():
            try:
                yield connection
            except BaseException as exc:
                mark_uncommitted(exc)
                raise

    def autocommit(self) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        """Open a connection for one statement that writes and commits by itself."""
        engine = self._autocommit.get(self.write)
        return self.transaction() if engine is None else connected(engine, writing=True)

    async def write_row(self, compiled: Callable[[], Compiled], parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute one statement that writes and commits by itself, and return its only row.

        ``compiled`` is called once a connection is there: the dialect knows its server only after the first one. On a
        direct engine over asyncpg the statement is prepared by the driver, and executed on the connection that the task
        keeps, if it keeps one.
        """
        if self._autocommit and runs_prepared(self.write):
            return await self._write_prepared(compiled, parameters)
        async with self.autocommit() as connection:
            sql, names = compiled()
            # asyncpg numbers its parameters, psycopg names them
            given = tuple(parameters[name] for name in names) if names else dict(parameters)
            row: Sequence[Any] = (await connection.exec_driver_sql(sql, given)).one()
            return row

    async def _write_prepared(self, compiled: Callable[[], Compiled], parameters: Mapping[str, Any]) -> Sequence[Any]:
        keeping = _keeping.get()
        connection = None if keeping is None else keeping.take(self.write)
        if connection is None:
            connection = await _check_out(self.write)
        began = time.monotonic()
        try:
            sql, names = compiled()
            (row,) = await fetch_prepared(connection, sql, [parameters[name] for name in names])
        except BaseException as exc:
            await _check_in_after(exc, connection, began, writing=True)
            raise
        if keeping is None or not keeping.keep(connection):
            await connection.__aexit__(None, None, None)
        return tuple(row)

    @contextlib.asynccontextmanager
    async def query(self, *, consistent: bool) -> AsyncIterator[AsyncConnection]:
        """Open a connection for one statement that reads; ``consistent`` asks the primary."""
        engine = self.reader(consistent=consistent)
        async with connected(self._autocommit.get(engine, engine)) as connection:
            yield connection

    async def partitioned(self) -> bool:
        """Return True where the requests are partitioned by their ids. The database is asked once."""
        if self._partitioned is None:
            async with self.query(consistent=False) as connection:
                self._partitioned = bool(await connection.scalar(_IS_PARTITIONED, {"name": self.quoted("requests")}))
        return self._partitioned

    def quoted(self, name: str) -> str:
        """Return the name of a table as SQL that the server resolves as it does in the statements."""
        quote, schema = self.write.dialect.identifier_preparer.quote_identifier, schema_of(self.write)
        return quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"

    @contextlib.asynccontextmanager
    async def turn(self, job: str) -> AsyncIterator[bool]:
        """Hold the advisory lock of ``job`` on these tables. Yields False where another process holds it."""
        # of the transaction, not of the session, which a pooler may hand to somebody else
        engine = self.write if self.has_replica else self.read
        name = f"rwriter {job} {schema_of(self.write) or ''}"
        async with connected(engine) as connection, connection.begin():
            is_mine = bool((await connection.execute(_TRY_LOCK, {"name": name})).scalar_one())
            # It is idle for as long as the job takes. The lock comes first: a query's snapshot, which would keep rows
            # from being vacuumed, is held until the session's next statement.
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield is_mine

    def reader(self, *, consistent: bool) -> AsyncEngine:
        """Return the engine for transactions that read."""
        return self.write if consistent else self.read


async def on_living_connection(operation: Callable[[], Awaitable[T]], *, most_dead: int = _MOST_DEAD) -> T:
    """Await ``operation``, and again where its connection was dead: closed while idle, or under the statement."""
    dead = 0
    while True:
        try:
            return await operation()
        except Exception as exc:
            forget_locals(exc)
            if dead == most_dead or not lost_connection(exc):
                raise
            dead += 1


@contextlib.asynccontextmanager
async def connected(engine: AsyncEngine, *, writing: bool = False) -> AsyncIterator[AsyncConnection]:
    """Open a connection. An error on the way to it is marked: no statement was sent."""
    connection = await _check_out(engine)
    began = time.monotonic()
    try:
        yield connection
    except BaseException as exc:
        await _check_in_after(exc, connection, began, writing=writing)
        raise
    await connection.__aexit__(None, None, None)


async def _check_out(engine: AsyncEngine) -> AsyncConnection:
    try:
        return await engine.connect()
    except BaseException as exc:
        # a cancellation, too: it is the cause of the time-out that it becomes
        mark_connecting(exc)
        raise


async def _check_in_after(exc: BaseException, connection: AsyncConnection, began: float, *, writing: bool) -> None:
    """Return to its pool a connection that ``exc`` was met on, in a statement that began at ``began``."""
    try:
        if writing and isinstance(exc, DBAPIError) and sqlstate_of(exc) == _READ_ONLY:
            # a primary that became a standby: the connection is sound and useless, and the pool cannot know
            await connection.invalidate()
        if isinstance(exc, TimeoutError):
            condemn_idle(connection.engine, began)
    finally:
        await connection.__aexit__(type(exc), exc, exc.__traceback__)


class KeptConnection:
    """The connection that a task which writes one batch after the other keeps from each to the next."""

    def __init__(self) -> None:
        self._connection: AsyncConnection | None = None
        self._checked_out = 0.0

    @property
    def is_held(self) -> bool:
        """True while a connection is kept."""
        return self._connection is not None

    def take(self, engine: AsyncEngine) -> AsyncConnection | None:
        """Return the kept connection of ``engine``, which is the caller's until ``keep``, or None to check one out."""
        connection = self._connection
        if connection is None:
            self._checked_out = time.monotonic()
            return None
        if connection.engine is not engine:
            return None
        self._connection = None
        return connection

    def keep(self, connection: AsyncConnection) -> bool:
        """Keep ``connection`` for the next statement. Returns False where the pool must have it back.

        That is where the pool has no other for whoever asks next, and ``KEPT_FOR`` seconds after the checkout.
        """
        if self._connection is not None or time.monotonic() - self._checked_out > KEPT_FOR:
            return False
        if not has_spare(connection.engine):
            return False
        self._connection = connection
        return True

    async def give_back(self) -> None:
        """Return the kept connection to its pool, if one is kept."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.__aexit__(None, None, None)


_keeping: Final[ContextVar[KeptConnection | None]] = ContextVar("rwriter_kept_connection", default=None)


@contextlib.asynccontextmanager
async def keeping_connection() -> AsyncIterator[KeptConnection]:
    """Have batches that this task stores in the block share a connection, which goes back at its end."""
    kept = KeptConnection()
    token = _keeping.set(kept)
    try:
        yield kept
    finally:
        _keeping.reset(token)
        await kept.give_back()


def _autocommit(engine: AsyncEngine) -> AsyncEngine:
    if engine.get_execution_options().get("postgresql_readonly", False):
        # what makes a transaction read-only is said when it begins
        return engine
    # made once: an engine with other options takes longer to make than its statement to run
    return engine.execution_options(isolation_level="AUTOCOMMIT")

"""Connections as the store needs them: for a transaction, and for one statement that is a transaction by itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

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
from rwriter.engines._pools import condemn_idle

T = TypeVar("T")

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")

_READ_ONLY = "25006"

_IS_PARTITIONED: Final = text("SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(:name))")

_MOST_DEAD: Final = 8
"""Dead connections that an operation may meet in a row before its caller hears of them."""


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
    began: float | None = None
    try:
        async with engine.connect() as connection:
            began = time.monotonic()
            try:
                yield connection
            except DBAPIError as exc:
                if writing and sqlstate_of(exc) == _READ_ONLY:
                    # a primary that became a standby: the connection is sound and useless, and the pool cannot know
                    await connection.invalidate()
                raise
    except BaseException as exc:
        # a cancellation, too: it is the cause of the time-out that it becomes
        if began is None:
            mark_connecting(exc)
        elif isinstance(exc, TimeoutError):
            condemn_idle(engine, began)
        raise


def _autocommit(engine: AsyncEngine) -> AsyncEngine:
    if engine.get_execution_options().get("postgresql_readonly", False):
        # what makes a transaction read-only is said when it begins
        return engine
    # made once: an engine with other options takes longer to make than its statement to run
    return engine.execution_options(isolation_level="AUTOCOMMIT")

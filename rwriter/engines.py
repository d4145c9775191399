"""Engines for the SQL: one engine for writes, one for reads, or a single engine for both."""

from __future__ import annotations

import asyncio
import math
import os
import weakref
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

import asyncpg
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter._urls import connect_arguments
from rwriter._validation import at_least, positive


@runtime_checkable
class EngineProvider(Protocol):
    """An object with a ``write`` and a ``read`` engine, which may be the same one."""

    @property
    def write(self) -> AsyncEngine:
        """The engine every statement of the writer runs on."""

    @property
    def read(self) -> AsyncEngine:
        """The engine ``get_request`` and ``list_requests`` run on, unless asked for ``consistent=True``."""


class DbEngines:
    """The provider for production: a primary, and a replica for reads where there is one.

    Engines handed to the constructor are never disposed here. ``from_url`` makes engines that this object owns:
    ``aclose()``, or leaving ``async with``, disposes them.

    ``direct=True`` says that no pooler in transaction mode is between these engines and PostgreSQL: a flush is then one
    statement that commits by itself, in one round trip instead of three. Such a pooler promises to keep together what
    is in a transaction; that it keeps preparing and executing together too, as asyncpg does not end its request in
    between, is not relied upon. ``from_url`` sets it.
    """

    def __init__(self, primary: AsyncEngine, replica: AsyncEngine | None = None, *, direct: bool = False) -> None:
        for name, engine in (("primary", primary), ("replica", replica)):
            if not isinstance(engine, AsyncEngine) and (name == "primary" or engine is not None):
                msg = f"{name} must be a sqlalchemy AsyncEngine, not {type(engine).__name__}; see DbEngines.from_url"
                raise TypeError(msg)
        self._write = primary
        self._read = replica if replica is not None else primary
        self._owned: tuple[AsyncEngine, ...] = ()
        self.direct: Final = direct

    @classmethod
    def from_url(  # noqa: PLR0913 -- every option of the two engines, keyword-only
        cls,
        url: str | URL,
        replica_url: str | URL | None = None,
        schema: str | None = None,
        *,
        pool_size: int = 5,
        max_overflow: int = 0,
        pool_timeout: float = 10.0,
        connect_timeout: float = 10.0,
        statement_timeout: float = 30.0,
        pgbouncer: bool = False,
        synchronous_commit: bool = True,
        application_name: str = "rwriter",
    ) -> Self:
        """Make engines for ``postgresql://`` or ``postgresql+asyncpg://`` URLs, several hosts included.

        ``schema``: where the tables are, when that is not the first of the search_path.
        ``pool_size`` and ``max_overflow`` bound the connections of each engine; ``pool_timeout``, ``connect_timeout``
        and ``statement_timeout`` are seconds and bound every wait, so that a peer that stops answering without closing
        costs seconds. ``pgbouncer=True`` is for a pooler in transaction mode: no prepared statement outlives its
        transaction and nothing is asked of the session.

        ``synchronous_commit=False`` lets PostgreSQL answer before a commit is on its disk. Batches of one gain a third,
        batches of 100 nothing; a crash of the server loses what it had acknowledged in the last half second or so
        (three times its ``wal_writer_delay``), and no retry brings that back, as nobody notices. It is set for the
        session: behind a pooler use ``ALTER ROLE ... SET synchronous_commit = off`` instead.

        Raises ``ValueError`` for a URL or an option that cannot be used.
        """
        for name, seconds in (
            ("pool_timeout", pool_timeout),
            ("connect_timeout", connect_timeout),
            ("statement_timeout", statement_timeout),
        ):
            positive(name, seconds)

        if pgbouncer and not synchronous_commit:
            msg = "synchronous_commit=False needs a session; with pgbouncer use ALTER ROLE ... SET synchronous_commit"
            raise ValueError(msg)

        # SQLAlchemy reads 0 and -1 as "no limit"
        at_least("pool_size", pool_size, 1)
        at_least("max_overflow", max_overflow, 0)

        def make(target: str | URL) -> AsyncEngine:
            parsed, connect_args = connect_arguments(target)
            connect_args |= {"timeout": connect_timeout, "command_timeout": statement_timeout}
            connect_args["async_creator_fn"] = _connect_to_first
            connect_args["connection_class"] = _Connection
            options: dict[str, Any] = {"poolclass": None}
            if pgbouncer:
                connect_args |= _POOLER_CONNECT_ARGS
                # the pooler keeps the server connections; a second pool on top would only hold its slots
                options = {"poolclass": NullPool}
            else:
                settings = connect_args.setdefault("server_settings", {})
                settings.setdefault("application_name", application_name)
                # a transaction whose client vanished would keep its rows locked until the server's TCP gives up, in
                # hours: their redelivery waits for them, and so does everything behind it
                settings.setdefault("idle_in_transaction_session_timeout", str(math.ceil(statement_timeout * 1000)))
                if not synchronous_commit:
                    settings["synchronous_commit"] = "off"
                options = {"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": pool_timeout}
            # hide_parameters: they are bodies, and errors are logged
            engine = create_async_engine(parsed, connect_args=connect_args, hide_parameters=True, **options)
            return in_schema(engine, schema)

        primary = make(url)
        replica = make(replica_url) if replica_url is not None else None
        engines = cls(primary, replica, direct=not pgbouncer)
        engines._owned = (primary,) if replica is None else (primary, replica)
        _owned_engines.update(engines._owned)
        return engines

    @property
    def write(self) -> AsyncEngine:
        """The primary."""
        return self._write

    @property
    def read(self) -> AsyncEngine:
        """The replica, or the primary where there is none."""
        return self._read

    async def aclose(self) -> None:
        """Dispose the engines ``from_url`` made. Engines handed in are left alone."""
        for engine in self._owned:
            await engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


# A forked child must neither use nor close the connections it inherits: their sockets are the parent's.
_owned_engines: weakref.WeakSet[AsyncEngine] = weakref.WeakSet()


def _drop_connections_in_child() -> None:
    for engine in list(_owned_engines):
        engine.sync_engine.dispose(close=False)


os.register_at_fork(after_in_child=_drop_connections_in_child)

_POOLER_CONNECT_ARGS: Final[dict[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    # unnamed: the next one replaces it, where named ones would pile up in the pooler's sessions, 140 kB a call
    "prepared_statement_name_func": lambda: "",
}


def as_provider(engines: EngineProvider | AsyncEngine) -> EngineProvider:
    """Return ``engines``, or a provider that uses a plain ``AsyncEngine`` for both write and read.

    Raises ``TypeError`` for anything else.
    """
    if isinstance(engines, AsyncEngine):
        return DbEngines(engines)
    if isinstance(engines, EngineProvider):
        return engines
    msg = f"engines must be an AsyncEngine or have .write and .read (see DbEngines), not {type(engines).__name__}"
    raise TypeError(msg)


def in_schema(engine: AsyncEngine, schema: str | None) -> AsyncEngine:
    """Return ``engine``, sharing its pool, with rwriter's tables looked up in ``schema`` (``None``: unchanged)."""
    if schema is None:
        return engine
    return engine.execution_options(schema_translate_map={None: schema})


def schema_of(engine: AsyncEngine) -> str | None:
    """Return the schema ``in_schema`` set on ``engine``, if any."""
    schema: str | None = engine.get_execution_options().get("schema_translate_map", {}).get(None)
    return schema


CLOSE_TIMEOUT: Final = 0.5
"""Seconds a server has to answer the closing of an idle connection, for which asyncpg would wait for ever."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # it ships no types
    __slots__ = ()

    async def close(self, *, timeout: float | None = None) -> None:
        try:
            await super().close(timeout=CLOSE_TIMEOUT if timeout is None else timeout)
        except TimeoutError:
            # after the time-out asyncpg would open a second connection to cancel "the query"; terminate instead
            await asyncio.sleep(0)
            self.terminate()


_NEXT_HOST: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)


async def _connect_to_first(**arguments: Any) -> Any:
    """Connect to the first host that accepts, each with a timeout of its own as in libpq.

    asyncpg has one timeout for all hosts: a machine that vanished silently would use it up.
    """
    hosts, ports = arguments.get("host"), arguments.get("port")
    if not isinstance(hosts, list) or arguments.get("target_session_attrs") == "prefer-standby":
        return await asyncpg.connect(**arguments)
    errors: list[Exception] = []
    for number, host in enumerate(hosts):
        port = ports[number] if isinstance(ports, list) else ports
        try:
            return await asyncpg.connect(**arguments | {"host": host, "port": port})
        except _NEXT_HOST as exc:
            errors.append(exc)
    # an unreachable host tells the operator more than one that merely has the wrong role
    raise min(errors, key=lambda exc: isinstance(exc, asyncpg.TargetServerAttributeNotMatched))

"""The protocol of providers and the providers for production: engines handed in, or made from a URL."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias, runtime_checkable

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter._validation import at_least, positive
from rwriter.engines._asyncpg import ClosingConnection, Connector
from rwriter.engines._pools import watch_idle_connections
from rwriter.engines._urls import read_url

Password: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A password, or a function, async or not, that returns the one of the moment: it is asked at each connect."""

_DRIVERS: Final = ("asyncpg", "psycopg")


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
    ``aclose()``, or leaving ``async with``, disposes them. On one server it makes two all the same, so that no number
    of readers takes a flush's connection.

    ``direct=True`` says that no pooler in transaction mode is between these engines and PostgreSQL: a flush is then one
    statement that commits by itself, in one round trip instead of three. Such a pooler promises to keep together what
    is in a transaction; that it keeps preparing and executing together too, as asyncpg does not end its request in
    between, is not relied upon. ``from_url`` sets it.
    """

    def __init__(self, primary: AsyncEngine, replica: AsyncEngine | None = None, *, direct: bool = False) -> None:
        check_engine("primary", primary)
        if replica is not None:
            check_engine("replica", replica)
        self._write = primary
        self._read = replica if replica is not None else primary
        self._owned: tuple[AsyncEngine, ...] = ()
        self.direct: Final[bool] = direct
        self.has_replica: bool = replica is not None
        """True where reads go to another server, which may lag."""

    @classmethod
    def from_url(  # noqa: PLR0913 -- every option of the two engines, keyword-only
        cls,
        url: str | URL,
        replica_url: str | URL | None = None,
        schema: str | None = None,
        *,
        password: Password | None = None,
        pool_size: int = 5,
        max_overflow: int = 0,
        pool_timeout: float = 10.0,
        connect_timeout: float | None = None,
        statement_timeout: float = 30.0,
        pgbouncer: bool = False,
        synchronous_commit: bool = True,
        application_name: str = "rwriter",
    ) -> Self:
        """Make engines for the URLs that libpq takes: several hosts, sockets, TLS, ``options``, ``keepalives*``.

        ``schema``: where the tables are, when that is not the first of the search_path.
        ``password``: instead of the URL's; a function, async or not, is asked at each connect (tokens that expire).
        ``pool_size`` and ``max_overflow`` bound the connections of each engine, of which there is one for the writer
        and one for reads; ``pool_timeout``, ``connect_timeout`` (the URL's, else 10) and ``statement_timeout`` are
        seconds and bound every wait, so that a peer that stops answering without closing costs seconds.
        ``pgbouncer=True``, or ``?pgbouncer=true`` in the URL, is for PgBouncer in any mode: no prepared statement
        outlives its transaction and nothing is asked of the session.

        ``synchronous_commit=False`` lets PostgreSQL answer before a commit is on its disk. Batches of one gain a third,
        batches of 100 nothing; a crash of the server loses what it had acknowledged in the last half second or so
        (three times its ``wal_writer_delay``), and no retry brings that back, as nobody notices. It is set for the
        session: behind a pooler use ``ALTER ROLE ... SET synchronous_commit = off`` instead.

        Raises ``ValueError`` for a URL or an option that cannot be used.
        """
        for name, seconds in (("pool_timeout", pool_timeout), ("statement_timeout", statement_timeout)):
            positive(name, seconds)
        if connect_timeout is not None:
            positive("connect_timeout", connect_timeout)
        # SQLAlchemy reads 0 and -1 as "no limit"
        at_least("pool_size", pool_size, 1)
        at_least("max_overflow", max_overflow, 0)
        pooled = pgbouncer or read_url(url).pgbouncer
        if pooled and not synchronous_commit:
            msg = "synchronous_commit=False needs a session; with pgbouncer use ALTER ROLE ... SET synchronous_commit"
            raise ValueError(msg)

        def make(target: str | URL) -> AsyncEngine:
            read = read_url(target)
            connect_args = read.arguments | {
                "timeout": connect_timeout or read.connect_timeout or CONNECT_TIMEOUT,
                "command_timeout": statement_timeout,
                "async_creator_fn": Connector(read.tcp, silence=statement_timeout),
                "connection_class": ClosingConnection,
            }
            if password is not None:
                connect_args["password"] = password
            options: dict[str, Any]
            if pgbouncer or read.pgbouncer:
                connect_args |= _POOLER_CONNECT_ARGS
                # the pooler keeps the server connections; a second pool on top would only hold its slots
                options = {"poolclass": NullPool}
            else:
                settings = connect_args.setdefault("server_settings", {})
                _set_session(settings, application_name, statement_timeout, synchronous_commit=synchronous_commit)
                options = {"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": pool_timeout}
            # hide_parameters: they are bodies, and errors are logged
            engine = create_async_engine(read.url, connect_args=connect_args, hide_parameters=True, **options)
            watch_idle_connections(engine)
            return in_schema(engine, schema)

        primary, replica = make(url), make(url if replica_url is None else replica_url)
        engines = cls(primary, replica, direct=not pooled)
        engines._owned = (primary, replica)
        engines.has_replica = replica_url is not None
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

CONNECT_TIMEOUT: Final = 10.0
"""Seconds a host has to accept a connection, unless the URL or an option says otherwise."""


def _set_session(
    settings: dict[str, str], application_name: str, statement_timeout: float, *, synchronous_commit: bool
) -> None:
    settings.setdefault("application_name", os.environ.get("PGAPPNAME") or application_name)
    if options := os.environ.get("PGOPTIONS"):
        settings.setdefault("options", options)
    # a transaction whose client vanished would keep its rows locked until the server's TCP gives up, in hours: their
    # redelivery waits for them, and so does everything behind it
    settings.setdefault("idle_in_transaction_session_timeout", str(math.ceil(statement_timeout * 1000)))
    if not synchronous_commit:
        settings["synchronous_commit"] = "off"


_POOLER_CONNECT_ARGS: Final[dict[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    # unnamed: the next one replaces it, where named ones would pile up in the pooler's sessions, 140 kB a call
    "prepared_statement_name_func": lambda: "",
}


def as_provider(engines: EngineProvider | AsyncEngine) -> EngineProvider:
    """Return ``engines``, or a provider that uses a plain ``AsyncEngine`` for both write and read.

    Raises ``TypeError`` for anything else, and ``ValueError`` for an engine of another database or of a driver that the
    library does not run on.
    """
    if isinstance(engines, AsyncEngine):
        return DbEngines(engines)
    # a class has the attributes, too
    if not isinstance(engines, type) and isinstance(engines, EngineProvider):
        for engine in (engines.write, engines.read):
            check_engine("the engines of a provider", engine)
        return engines
    msg = (
        "engines must be a sqlalchemy AsyncEngine or have .write and .read (see DbEngines.from_url), "
        f"not {_named(engines)}"
    )
    raise TypeError(msg)


def check_engine(name: str, engine: object) -> None:
    """Raise ``TypeError`` for what is no ``AsyncEngine``, ``ValueError`` for one that the library does not run on."""
    if not isinstance(engine, AsyncEngine):
        msg = f"{name} must be a sqlalchemy AsyncEngine, not {_named(engine)}; see DbEngines.from_url"
        raise TypeError(msg)
    if engine.dialect.name != "postgresql" or engine.dialect.driver not in _DRIVERS:
        found = f"{engine.dialect.name}+{engine.dialect.driver}"
        msg = f"{name} must be of PostgreSQL with the driver asyncpg or psycopg, not {found}"
        raise ValueError(msg)


def _named(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def in_schema(engine: AsyncEngine, schema: str | None) -> AsyncEngine:
    """Return ``engine``, sharing its pool, with rwriter's tables looked up in ``schema`` (``None``: unchanged)."""
    if schema is None:
        return engine
    return engine.execution_options(schema_translate_map={None: schema})


def hiding_parameters(engine: AsyncEngine) -> AsyncEngine:
    """Return ``engine``, sharing its pool, with errors and its log without parameters: they are bodies."""
    if engine.sync_engine.hide_parameters:
        return engine
    # a copy: the engine may be a service's own, whose other statements are none of ours
    copy = engine.execution_options()
    copy.sync_engine.hide_parameters = True
    return copy


def schema_of(engine: AsyncEngine) -> str | None:
    """Return the schema ``in_schema`` set on ``engine``, if any."""
    schema: str | None = engine.get_execution_options().get("schema_translate_map", {}).get(None)
    return schema

"""The tables the measurements run on: a schema of their own, made and dropped here."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from rwriter import migrate
from rwriter.engines import connect_arguments
from rwriter.schema import request_templates, requests
from rwriter.testing import PostgresServer

SCHEMA: Final = "rwriter_bench"

_SETTINGS: Final = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
)


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """``url``, or that of an embedded server with PostgreSQL's own default settings, gone afterwards."""
    if url is not None:
        yield url
        return
    with PostgresServer() as embedded:
        yield embedded.url()


@dataclasses.dataclass(frozen=True)
class Stored:
    """What the tables say after a round. ``stored_fraction``: bytes of a response body on disk by bytes given."""

    rows: int
    transactions: int
    compression: str | None
    stored_fraction: float


class Database:
    """Fresh tables in ``schema``, found through the search_path: no peer pays for a schema's name in its statements."""

    def __init__(self, url: str, schema: str = SCHEMA) -> None:
        self._url = url
        self.schema: Final = schema
        self._control = self._engine(1)

    @property
    def libpq_url(self) -> str:
        """The server, for drivers over libpq; ``schema`` is not in it."""
        return make_url(self._url).set(drivername="postgresql").render_as_string(hide_password=False)

    @contextlib.asynccontextmanager
    async def engine(self, connections: int) -> AsyncIterator[AsyncEngine]:
        """An engine that holds up to ``connections``; the same settings for every peer."""
        engine = self._engine(connections)
        try:
            yield engine
        finally:
            await engine.dispose()

    @contextlib.asynccontextmanager
    async def drivers(self, connections: int) -> AsyncIterator[list[Any]]:
        """As many ``asyncpg.Connection``; the same settings for every peer."""
        async with self.engine(connections) as engine, contextlib.AsyncExitStack() as stack:
            held = [await stack.enter_async_context(engine.connect()) for _ in range(connections)]
            yield [(await connection.get_raw_connection()).driver_connection for connection in held]

    @contextlib.asynccontextmanager
    async def control(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement is a transaction; not for peers."""
        async with self._control.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def tables(self) -> AsyncIterator[None]:
        """Migrate a fresh schema; drop it at the end."""
        await self._execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")
        try:
            await migrate.upgrade(self._control, schema=self.schema)
            yield
        finally:
            await self._execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")
            await self._control.dispose()

    async def empty(self) -> None:
        """Leave no rows, and no dirty pages of the peer before for the next one to pay for."""
        await self._execute("TRUNCATE requests, request_templates")
        await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write dirty pages out, where that is allowed."""
        with contextlib.suppress(DBAPIError):  # a user's server may not let us
            await self._execute("CHECKPOINT")

    async def wal_position(self) -> int:
        """Bytes of WAL written since the cluster was made; differences are what counts."""
        async with self.control() as connection:
            position = "pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
            return int((await connection.exec_driver_sql(f"SELECT {position}")).scalar_one())

    async def verify(self, expected: int, *, owner: str | None = None) -> Stored:
        """Raise ``AssertionError`` unless ``expected`` finished rows are there, each with its template.

        With ``owner`` only that owner's rows count: there are others in the tables.
        """
        body = requests.c.response_body
        found = select(
            func.count().label("rows"),
            func.count(request_templates.c.id).label("templates"),
            func.count(func.distinct(text("requests.xmin::text"))).label("transactions"),
            func.max(func.pg_column_compression(body)).label("compression"),
            (func.sum(func.pg_column_size(body)) * 1.0 / func.sum(requests.c.response_size)).label("stored_fraction"),
        ).select_from(requests.outerjoin(request_templates, requests.c.template_id == request_templates.c.id))
        if owner is not None:
            found = found.where(requests.c.created_by == owner)
        async with self._control.connect() as connection:
            row = (await connection.execute(found.where(requests.c.state == "completed"))).one()
        if not row.rows == row.templates == expected:
            msg = f"{expected} records were sent, {row.rows} rows with {row.templates} templates are there"
            raise AssertionError(msg)
        return Stored(row.rows, row.transactions, row.compression, float(row.stored_fraction))

    async def settings(self) -> dict[str, Any]:
        """What of the server's configuration bears on the figures."""
        async with self._control.connect() as connection:
            shown = [await connection.exec_driver_sql(f"SHOW {name}") for name in _SETTINGS]
            return {name: result.scalar_one() for name, result in zip(_SETTINGS, shown, strict=True)}

    def _engine(self, connections: int) -> AsyncEngine:
        url, arguments = connect_arguments(self._url)
        arguments["server_settings"] = arguments.get("server_settings", {}) | {"search_path": self.schema}
        return create_async_engine(url, connect_args=arguments, pool_size=connections, max_overflow=0)

    async def _execute(self, statement: str) -> None:
        async with self.control() as connection:
            await connection.exec_driver_sql(statement)

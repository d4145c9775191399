"""The tables the measurements run on: a schema of their own, made and dropped here."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rwriter import migrate
from rwriter.engines import connect_arguments
from rwriter.schema import request_templates, requests
from rwriter.testing import PostgresServer

SCHEMA: Final = "rwriter_bench"

_SETTINGS: Final = ("server_version", "fsync", "synchronous_commit", "shared_buffers")


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
    """Fresh tables in ``SCHEMA``, found through the search_path: no peer pays for a schema's name in its statements."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._control = self._engine(1)

    @contextlib.asynccontextmanager
    async def engine(self, connections: int) -> AsyncIterator[AsyncEngine]:
        """An engine that holds up to ``connections``; the same settings for every peer."""
        engine = self._engine(connections)
        try:
            yield engine
        finally:
            await engine.dispose()

    @contextlib.asynccontextmanager
    async def tables(self) -> AsyncIterator[None]:
        """Migrate a fresh schema; drop it at the end."""
        await self._execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        try:
            await migrate.upgrade(self._control, schema=SCHEMA)
            yield
        finally:
            await self._execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            await self._control.dispose()

    async def empty(self) -> None:
        """Leave no rows, and no dirty pages of the peer before for the next one to pay for."""
        await self._execute("TRUNCATE requests, request_templates")
        with contextlib.suppress(DBAPIError):  # a user's server may not let us
            await self._execute("CHECKPOINT")

    async def verify(self, expected: int) -> Stored:
        """Raise ``AssertionError`` unless ``expected`` finished rows are there, each with its template."""
        body = requests.c.response_body
        found = select(
            func.count().label("rows"),
            func.count(request_templates.c.id).label("templates"),
            func.count(func.distinct(text("requests.xmin::text"))).label("transactions"),
            func.max(func.pg_column_compression(body)).label("compression"),
            (func.sum(func.pg_column_size(body)) * 1.0 / func.sum(requests.c.response_size)).label("stored_fraction"),
        ).select_from(requests.outerjoin(request_templates, requests.c.template_id == request_templates.c.id))
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
        arguments["server_settings"] = arguments.get("server_settings", {}) | {"search_path": SCHEMA}
        return create_async_engine(url, connect_args=arguments, pool_size=connections, max_overflow=0)

    async def _execute(self, statement: str) -> None:
        async with self._control.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.exec_driver_sql(statement)

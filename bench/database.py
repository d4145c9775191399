"""The tables the measurements run on: a schema of their own, made and dropped here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from rwriter import DbEngines, migrate
from rwriter.engines._urls import connect_arguments
from rwriter.testing import PostgresServer

SCHEMA: Final = "rwriter_bench"

_SETTINGS: Final = (
    "server_version fsync synchronous_commit full_page_writes wal_compression shared_buffers max_wal_size"
)

_COMPRESSION: Final = """
SELECT CASE attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END
FROM pg_attribute WHERE attrelid = 'requests'::regclass AND attname = 'response_body'
"""
_STORED: Final = """
SELECT count(*) AS rows, count(t.id) AS templates, count(DISTINCT r.xmin::text) AS transactions
FROM requests AS r LEFT JOIN request_templates AS t ON t.id = r.template_id
WHERE r.state = 'completed'
"""


@contextlib.contextmanager
def server(url: str | None, bin_dir: Path | None = None) -> Iterator[str]:
    """Yield ``url``, or that of a server with PostgreSQL's own default settings that is gone afterwards.

    ``bin_dir`` holds its programs; without it the embedded ones are used.
    """
    if url is not None:
        yield url
        return
    with PostgresServer(bin_dir) as own:
        yield own.url()


ProcessorTimes = Mapping[int, float]


def used(before: ProcessorTimes | None, after: ProcessorTimes | None) -> float | None:
    """Return the seconds of processor time between the two."""
    if before is None or after is None:
        return None
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


@contextlib.asynccontextmanager
async def own_database(url: str, name: str) -> AsyncIterator[str]:
    """Make database ``name`` anew on the server of ``url``; yields its URL, and drops it at the end."""
    control = Database(url)
    drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
    try:
        await control.execute(drop, f"CREATE DATABASE {name}")
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        await control.execute(drop)
        await control.dispose()


class Database:
    """Fresh tables in ``schema``, found through the search_path: no peer pays for a schema's name in its statements."""

    def __init__(self, url: str, schema: str = SCHEMA) -> None:
        self.url: Final = url
        self.schema: Final = schema
        self._control = self._engine(1)

    @contextlib.asynccontextmanager
    async def engine(self, connections: int) -> AsyncIterator[AsyncEngine]:
        """Open an engine that holds up to ``connections``; the same settings for every peer."""
        engine = self._engine(connections)
        try:
            yield engine
        finally:
            await engine.dispose()

    @contextlib.asynccontextmanager
    async def engines(self, connections: int) -> AsyncIterator[DbEngines]:
        """Open the same for the library, told what ``DbEngines.from_url`` knows: that there is no pooler."""
        async with self.engine(connections) as engine:
            yield DbEngines(engine, direct=True)

    @contextlib.asynccontextmanager
    async def drivers(self, connections: int) -> AsyncIterator[list[Any]]:
        """Open as many ``asyncpg.Connection``; the same settings for every peer."""
        async with self.engine(connections) as engine, contextlib.AsyncExitStack() as stack:
            held = [await stack.enter_async_context(engine.connect()) for _ in range(connections)]
            yield [(await connection.get_raw_connection()).driver_connection for connection in held]

    @contextlib.asynccontextmanager
    async def control(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection on which each statement is a transaction; not for peers."""
        async with self._control.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def tables(self) -> AsyncIterator[None]:
        """Migrate a fresh schema; drop it at the end."""
        await self.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")
        try:
            await migrate.upgrade(self._control, schema=self.schema)
            yield
        finally:
            await self.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")
            await self.dispose()

    async def execute(self, *statements: str) -> None:
        """Run ``statements``, each a transaction."""
        async with self.control() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def dispose(self) -> None:
        """Close the control connection."""
        await self._control.dispose()

    async def empty(self) -> None:
        """Leave no rows, and no dirty pages of the peer before for the next one to pay for."""
        await self.execute("TRUNCATE requests, request_templates")
        await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write dirty pages out, where that is allowed."""
        with contextlib.suppress(DBAPIError):  # a user's server may not let us
            await self.execute("CHECKPOINT")

    async def wal_position(self) -> int:
        """Return the bytes of WAL written since the cluster was made: differences are what counts."""
        async with self.control() as connection:
            position = "pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
            return int((await connection.exec_driver_sql(f"SELECT {position}")).scalar_one())

    async def processor_times(self) -> ProcessorTimes | None:
        """Return each server process's seconds of processor time; ``None`` if the server is on another machine."""
        async with self.control() as connection:
            pids = (await connection.exec_driver_sql("SELECT pid FROM pg_stat_activity")).scalars().all()
        times = {pid: _processor_time(pid) for pid in pids}
        return {pid: seconds for pid, seconds in times.items() if seconds is not None} or None

    async def verify(self, expected: int, *, owner: str | None = None) -> dict[str, Any]:
        """Raise ``AssertionError`` unless ``expected`` finished rows are there, each with its template.

        With ``owner`` only that owner's rows count: there are others in the tables. Returns ``rows``, ``templates``
        and the ``transactions`` they came in.
        """
        # plain SQL: `bench against` counts the rows of another checkout's tables with it
        query = _STORED if owner is None else f"{_STORED} AND r.created_by = '{owner}'"
        async with self.control() as connection:
            row = (await connection.exec_driver_sql(query)).mappings().one()
        if not row["rows"] == row["templates"] == expected:
            msg = f"{expected} records were sent, {row['rows']} rows with {row['templates']} templates are there"
            raise AssertionError(msg)
        return dict(row)

    async def settings(self) -> dict[str, Any]:
        """Return what of the server's configuration bears on the figures."""
        async with self.control() as connection:
            shown = {name: await connection.exec_driver_sql(f"SHOW {name}") for name in _SETTINGS.split()}
            compressed = await connection.exec_driver_sql(_COMPRESSION)
            return {name: result.scalar_one() for name, result in (*shown.items(), ("compression", compressed))}

    def _engine(self, connections: int) -> AsyncEngine:
        url, arguments = connect_arguments(self.url)
        arguments["server_settings"] = arguments.get("server_settings", {}) | {"search_path": self.schema}
        return create_async_engine(url, connect_args=arguments, pool_size=connections, max_overflow=0)


def _processor_time(pid: int) -> float | None:
    process = Path(f"/proc/{pid}")
    try:
        # where the server is another machine's, its pids are strangers here, or nobody
        if not (process / "comm").read_text().startswith("postgres"):
            return None
        # in nanoseconds, where times in /proc/<pid>/stat are in hundredths of a second
        return int((process / "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return None

"""Run commands in processes of their own and SQL on connections of its own, and read a schema's catalogue."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter.engines._urls import connect_arguments

ROOT: Final = Path(__file__).parents[2]
ODD_SCHEMA: Final = "We ird-Schéma"
ODDER_SCHEMA: Final = "a :b%c\"d$'e"
TABLES: Final = ["dead_letters", "erasures", "ledger", "request_templates", "requests", "rwriter_alembic_version"]
DEADLINE: Final = 60.0
"""Seconds until a wait for something that must happen fails. No test asserts anything about it."""


def environment(url: str | None = None, **variables: str) -> dict[str, str]:
    """Return this process's environment without rwriter's variables, plus the database's URL and ``variables``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RWRITER_", "PYTHONPATH"))}
    return kept | ({} if url is None else {"RWRITER_DATABASE_URL": url}) | variables


def run(
    *command: str, url: str | None = None, cwd: Path = ROOT, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` and return its output. Raises ``AssertionError`` unless its exit code is ``code``."""
    done = subprocess.run(
        command, env=environment(url, **variables), cwd=cwd, check=False, text=True, capture_output=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def alembic(
    *arguments: str, url: str | None = None, cwd: Path = ROOT, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the ``alembic`` command, by default in the folder that holds the checkout's ``alembic.ini``."""
    return run(sys.executable, "-m", "alembic", *arguments, url=url, cwd=cwd, code=code, **variables)


def rwriter(
    *arguments: str, url: str | None = None, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the ``rwriter`` command."""
    return run(sys.executable, "-m", "rwriter.cli", *arguments, url=url, cwd=ROOT, code=code, **variables)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Open a connection of the driver itself: it runs scripts of many statements, as psql does."""
    parsed, arguments = connect_arguments(url)
    dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn, **arguments)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def engine_on(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Open an engine as a service would, and dispose of it afterwards."""
    parsed, arguments = connect_arguments(url)
    engine = create_async_engine(parsed, connect_args=arguments, poolclass=NullPool, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


async def execute(url: str, script: str) -> None:
    """Run a script of any number of statements."""
    async with connected(url) as connection:
        await connection.execute(script)


async def rows(url: str, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """Return the rows of ``query`` as tuples."""
    async with connected(url) as connection:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]


async def column(url: str, query: str, *arguments: object) -> list[Any]:
    """Return the first column of the rows of ``query``."""
    return [row[0] for row in await rows(url, query, *arguments)]


async def tables_in(url: str, schema: str = "public") -> list[str]:
    """Return the names of the tables in ``schema``, sorted."""
    return await column(url, "SELECT tablename::text FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema)


async def revisions(url: str, table: str = "rwriter_alembic_version") -> list[str]:
    """Return the revisions in a version table, sorted."""
    return await column(url, f"SELECT version_num FROM {table} ORDER BY 1")


async def eventually_waiting_for_turn(url: str, sessions: int = 1) -> None:
    """Poll until ``sessions`` of this database wait for an upgrade's turn; past the deadline fail.

    A script waits for the advisory lock; the library asks for it again and again, asleep in between.
    """
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event IN ('advisory', 'PgSleep')"
    )
    async with asyncio.timeout(DEADLINE), connected(url) as connection:
        while await connection.fetchval(query) < sessions:
            await asyncio.sleep(0.01)

"""Alembic over a connection of the caller's: the schema of ``rwriter.schema`` brought to head, named, or compared.

The scripts are the checkout's ``migrations/`` or, in an installed wheel, the copy beside this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import schema as tables
from rwriter.engines import EngineProvider, as_provider, connect_arguments, schema_of
from rwriter.errors import RwriterError, SchemaOutdated

URL_VARIABLE: Final = "RWRITER_DATABASE_URL"
SCHEMA_VARIABLE: Final = "RWRITER_SCHEMA"

Target = EngineProvider | AsyncEngine | str | None
T = TypeVar("T")


class SchemaDrift(RwriterError):
    """The tables differ from ``rwriter.schema`` although the revision is right; the message lists how."""


def alembic_config(schema: str | None = None) -> Config:
    """Alembic's configuration for rwriter's own migrations, wherever they are installed.

    Put a connection into ``config.attributes["connection"]`` to run commands over it.
    """
    package = Path(__file__).parent
    root = package if (package / "migrations" / "env.py").is_file() else package.parent
    config = Config(root / "alembic.ini")
    config.set_main_option("script_location", str(root / "migrations").replace("%", "%%"))
    config.attributes["schema"] = schema
    return config


async def upgrade(target: Target = None, revision: str = "head", *, schema: str | None = None) -> None:
    """Bring the database to ``revision``. Safe to call from many processes at once: they take turns.

    ``target`` is an engine, a provider, a URL, or ``None`` for ``RWRITER_DATABASE_URL``; ``schema`` defaults to the
    engine's own and then to ``RWRITER_SCHEMA``.
    """
    await _over(target, schema, lambda config: command.upgrade(config, revision))


async def downgrade(target: Target = None, revision: str = "base", *, schema: str | None = None) -> None:
    """Take the database back to ``revision``. ``base`` drops the tables with every row in them."""
    await _over(target, schema, lambda config: command.downgrade(config, revision))


async def current(target: Target = None, *, schema: str | None = None) -> str | None:
    """The revision the database is at, or ``None`` where rwriter's migrations never ran."""
    async with _connection(target, schema) as (connection, name):
        return await connection.run_sync(_revision, name)


async def check(target: Target = None, *, schema: str | None = None) -> None:
    """Raise ``SchemaOutdated`` unless at head, and ``SchemaDrift`` where something rwriter needs is missing.

    What others added to the tables (the daemon's columns and indexes) is no drift.
    """
    async with _connection(target, schema) as (connection, name):
        revision = await connection.run_sync(_revision, name)
        if revision != tables.HEAD_REVISION:
            msg = f"the database is at {revision or 'no revision'}, not {tables.HEAD_REVISION}: run `rwriter migrate`"
            raise SchemaOutdated(msg)
        missing = await connection.run_sync(_missing, name)
    if missing:
        msg = "the tables differ from rwriter.schema:\n" + "\n".join(f"  {diff}" for diff in missing)
        raise SchemaDrift(msg)


def run_with_connection(url: str | None, work: Callable[[Connection], None]) -> None:
    """Call ``work`` with a connection to ``url``, from synchronous code, whether or not a loop is running here.

    For ``env.py``: only an async driver is installed, so a thread of its own runs the loop.
    """

    async def main() -> None:
        async with _engine(url) as engine, engine.connect() as connection:
            await connection.run_sync(work)
            await connection.commit()

    with ThreadPoolExecutor(1, thread_name_prefix="rwriter-migrate") as pool:
        pool.submit(asyncio.run, main()).result()


def is_ours(name: str | None, type_: str, _parents: Any) -> bool:
    """Alembic's ``include_name``: of the tables in a shared schema, only rwriter's."""
    return type_ != "table" or name in tables.metadata.tables


async def _over(target: Target, schema: str | None, run: Callable[[Config], object]) -> None:
    async with _connection(target, schema) as (connection, name):
        config = alembic_config(name)

        def work(sync_connection: Connection) -> None:
            config.attributes["connection"] = sync_connection
            run(config)

        await connection.run_sync(work)
        await connection.commit()


@contextlib.asynccontextmanager
async def _connection(target: Target, schema: str | None) -> AsyncIterator[tuple[Any, str | None]]:
    if target is None or isinstance(target, str):
        async with _engine(target) as engine, engine.connect() as connection:
            yield connection, schema or os.environ.get(SCHEMA_VARIABLE) or None
    else:
        engine = as_provider(target).write
        async with engine.connect() as connection:
            yield connection, schema or schema_of(engine) or os.environ.get(SCHEMA_VARIABLE) or None


@contextlib.asynccontextmanager
async def _engine(url: str | None) -> AsyncIterator[AsyncEngine]:
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        msg = f"no database given: set {URL_VARIABLE}=postgresql://user:password@host/database"
        raise RwriterError(msg)
    parsed, connect_args = connect_arguments(url)
    engine = create_async_engine(parsed, connect_args=connect_args, poolclass=NullPool)
    try:
        yield engine
    finally:
        await engine.dispose()


def _revision(connection: Connection, schema: str | None) -> str | None:
    context = MigrationContext.configure(
        connection, opts={"version_table": tables.VERSION_TABLE, "version_table_schema": schema}
    )
    return context.get_current_revision()


def _missing(connection: Connection, schema: str | None) -> list[object]:
    if schema is not None:
        quoted = connection.dialect.identifier_preparer.quote(schema)
        connection.exec_driver_sql(f"SET LOCAL search_path TO {quoted}")
    context = MigrationContext.configure(connection, opts={"include_name": is_ours})
    diffs: list[Any] = compare_metadata(context, tables.metadata)
    return [diff for diff in diffs if not (isinstance(diff, tuple) and str(diff[0]).startswith("remove_"))]

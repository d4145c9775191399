"""Runs Alembic over the caller's connection: upgrades the schema to head, names its revision, compares its tables.

The scripts are the checkout's ``migrations/`` or, in an installed wheel, the copy beside this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import URL, Connection, MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import partitions
from rwriter import schema as tables
from rwriter._escape import escape
from rwriter._validation import one_of
from rwriter.engines import DbEngines, EngineProvider, as_provider, in_schema, schema_of
from rwriter.engines._urls import URL_FORM
from rwriter.errors import RwriterError, SchemaOutdated
from rwriter.store import RequestStore, current_revision, revision_in_service

URL_VARIABLE: Final = "RWRITER_DATABASE_URL"
SCHEMA_VARIABLE: Final = "RWRITER_SCHEMA"

Target: TypeAlias = EngineProvider | AsyncEngine | URL | str | None
Period: TypeAlias = Literal["week", "day"]
"""The length of a partition."""

# migrating a large table may take hours; the lock timeouts of env.py bound the waiting
_STATEMENT_TIMEOUT = 24 * 3600.0
_TURN_POLL = 0.02
_turn = threading.Lock()

# differences that autogenerate reports and no statement of rwriter minds
_TOLERATED = ("remove_", "modify_comment", "add_table_comment")

_PARTITION = re.compile(rf"({'|'.join(tables.PARTITIONED_TABLES)})_[0-9]{{8}}")


class SchemaDrift(RwriterError):
    """The tables differ from ``rwriter.schema`` although the revision is right; the message lists how."""


def alembic_config(schema: str | None = None) -> Config:
    """Return Alembic's configuration for rwriter's own migrations, wherever they are installed.

    Put a connection into ``config.attributes["connection"]`` to run commands over it, in its own transaction.
    """
    package = Path(__file__).parent
    root = package if (package / "migrations" / "env.py").is_file() else package.parent
    config = Config(root / "alembic.ini")
    config.set_main_option("script_location", str(root / "migrations").replace("%", "%%"))
    config.attributes["schema"] = schema
    return config


async def upgrade(
    target: Target = None, revision: str = "head", *, schema: str | None = None, partitioned: Period | None = None
) -> None:
    """Bring the database to ``revision``. Safe to call from many processes at once: they take turns.

    ``target`` is an engine, a provider, a URL, or ``None`` for ``RWRITER_DATABASE_URL``; ``schema`` defaults to the
    engine's own and then to ``RWRITER_SCHEMA``. Where a service's own Alembic has rwriter's revisions in its history,
    nothing is done. ``partitioned`` makes new tables with a partition for each week or day; tables that are there stay
    as they are: only the first upgrade needs it.

    Raises ``RwriterError`` where that history is behind, for a revision this release does not know, and where the
    tables are not partitioned as asked.
    """
    async with _engine(target, schema) as (engine, _):
        if partitioned is not None:
            await _refuse_other_variant(engine, partitioned)
        theirs = await revision_in_service(engine)
    if theirs is not None and theirs < tables.HEAD_REVISION:
        msg = (
            f"the service's own Alembic has rwriter's revisions in its history, and is at {escape(theirs)}: run its "
            f"`alembic upgrade heads` (the head of this release is {tables.HEAD_REVISION})"
        )
        raise RwriterError(msg)
    if theirs is not None:
        return

    def run(config: Config) -> None:
        config.attributes["partitioned"] = partitioned
        command.upgrade(config, revision)

    await _over(target, schema, run)


async def _refuse_other_variant(engine: AsyncEngine, period: Period) -> None:
    one_of("partitioned", period, tuple(partitions.PERIODS))
    found = await partitions.variant(engine)
    if found not in {None, period}:
        there = "plain" if found == "plain" else f"partitioned by {found}"
        msg = f"the tables are there and are {there}: only new ones can be partitioned by {period}"
        raise RwriterError(msg)


async def downgrade(target: Target = None, revision: str = "base", *, schema: str | None = None) -> None:
    """Take the database back to ``revision``. ``base`` drops the tables with every row in them."""
    await _over(target, schema, lambda config: command.downgrade(config, revision))


def upgrade_sql(revision: str = "head", *, schema: str | None = None, partitioned: Period | None = None) -> str:
    """Return the SQL that ``upgrade`` would run on an empty database, or from ``A`` for ``revision="A:B"``."""
    config = alembic_config(schema)
    config.attributes["partitioned"] = partitioned
    config.output_buffer = io.StringIO()
    with _clear_errors():
        command.upgrade(config, revision, sql=True)
    return config.output_buffer.getvalue()


async def current(target: Target = None, *, schema: str | None = None) -> str | None:
    """Return the revision the database is at, or ``None`` where rwriter's migrations never ran."""
    async with _engine(target, schema) as (engine, _):
        return await current_revision(engine)


async def check(target: Target = None, *, schema: str | None = None) -> None:
    """Raise ``SchemaOutdated`` below head, and ``SchemaDrift`` where something rwriter needs is missing or differs.

    Additions by others (columns and indexes of the daemon, of a later release) are no drift.
    """
    async with _engine(target, schema) as (engine, name):
        start = await _start_check(engine)
        async with engine.connect() as connection:
            drift = await connection.run_sync(_drift, name)
            drift += await partitions.faults(connection, name)
    if start is not None and not drift:
        raise start
    if drift:
        msg = "the tables are not what this release needs:\n" + "\n".join(f"  {line}" for line in drift)
        raise SchemaDrift(msg)


async def _start_check(engine: AsyncEngine) -> SchemaOutdated | None:
    """Return what the start check says of tables that are damaged at the right revision: the drift says it better."""
    try:
        await RequestStore(engine).check_schema()
    except SchemaOutdated as exc:
        if (await current_revision(engine) or "") < tables.HEAD_REVISION:
            raise
        return exc
    return None


def run_with_connection(url: str | None, work: Callable[[Connection], None]) -> None:
    """Call ``work`` with a connection to ``url``, from synchronous code, even while an event loop is running.

    For ``env.py``: only an async driver is installed, so a thread of its own runs the loop.
    """

    async def main() -> None:
        async with _engine(url, None) as (engine, _), engine.connect() as connection:
            await connection.run_sync(work)

    with ThreadPoolExecutor(1, thread_name_prefix="rwriter-migrate") as pool:
        pool.submit(asyncio.run, main()).result()


def versions_path() -> str:
    """Return the folder of rwriter's revisions, for the ``version_locations`` of a service's own Alembic."""
    return str(Path(str(alembic_config().get_main_option("script_location"))) / "versions")


def include_name(name: str | None, type_: str, _parents: Any = None) -> bool:
    """Return False for rwriter's tables in any schema, its version table included, and True for everything else.

    For ``context.configure(include_name=...)`` in a service's own ``env.py``: autogenerate and ``alembic check`` then
    propose nothing about them. Join it to a function of your own with ``and``.
    """
    return type_ != "table" or not (name == tables.VERSION_TABLE or is_ours(name, type_, None) or _is_partition(name))


def is_ours(name: str | None, type_: str, _parents: Any) -> bool:
    """Return True for rwriter's own tables in a shared schema: Alembic's ``include_name``."""
    return type_ != "table" or name in tables.metadata.tables


def declared(connection: Connection) -> MetaData:
    """Return the tables that the database should have: those of the partitioned variant where it has that."""
    is_partitioned = connection.scalar(text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('requests')"))
    return tables.partitioned_metadata if is_partitioned else tables.metadata


def _is_partition(name: str | None) -> bool:
    return name is not None and _PARTITION.fullmatch(name) is not None


async def _over(target: Target, schema: str | None, run: Callable[[Config], object]) -> None:
    async with _engine(target, schema) as (engine, name), engine.connect() as connection:
        # whatever the engine's own: autocommit would leave the half of a revision that fails, and a stricter level's
        # snapshot would stop the building of an index
        await connection.execution_options(isolation_level="READ COMMITTED")
        config = alembic_config(name)

        def work(sync_connection: Connection) -> None:
            config.attributes["connection"] = sync_connection
            with _clear_errors():
                run(config)

        async with _our_turn():
            await connection.run_sync(work)


@contextlib.asynccontextmanager
async def _our_turn() -> AsyncIterator[None]:
    # alembic.context and alembic.op are globals of the process: two migrations at once would run over each other's
    # connections. Polled, because the holder may be on another thread's loop as well as on this one.
    while not _turn.acquire(blocking=False):  # noqa: ASYNC110 -- an asyncio.Event belongs to one loop
        await asyncio.sleep(_TURN_POLL)
    try:
        yield
    finally:
        _turn.release()


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except CommandError as exc:
        about_revisions = "revision" in str(exc)
        words = escape(str(exc))
        msg = f"{words} (the head of this release is {tables.HEAD_REVISION})" if about_revisions else words
        raise RwriterError(msg) from exc


@contextlib.asynccontextmanager
async def _engine(target: Target, schema: str | None) -> AsyncIterator[tuple[AsyncEngine, str | None]]:
    from_environment = os.environ.get(SCHEMA_VARIABLE) or None
    if target is None or isinstance(target, (str, URL)):
        # as behind a pooler, which the URL may well name: one connection, nothing prepared that outlives it
        url = target or _url_from_environment()
        async with DbEngines.from_url(url, pgbouncer=True, statement_timeout=_STATEMENT_TIMEOUT) as engines:
            name = schema or from_environment
            yield in_schema(engines.write, name), name
    else:
        engine = as_provider(target).write
        name = schema or schema_of(engine) or from_environment
        yield in_schema(engine, name), name


def _url_from_environment() -> str:
    url = os.environ.get(URL_VARIABLE)
    if not url:
        msg = f"no database given: set {URL_VARIABLE}={URL_FORM}"
        raise RwriterError(msg)
    return url


def _drift(connection: Connection, schema: str | None) -> list[str]:
    if schema is not None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
        connection.exec_driver_sql(f"SET LOCAL search_path TO {quoted}")
    opts = {"include_name": is_ours, "compare_server_default": True}
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=opts), declared(connection))
    # changes to one column come as a list, everything else alone
    diffs = [diff for item in found for diff in (item if isinstance(item, list) else [item])]
    return [escape(_describe(*diff)) for diff in diffs if not diff[0].startswith(_TOLERATED)]


def _describe(kind: str, *parts: Any) -> str:
    if kind.startswith("modify_"):
        _, table, column, _, found, wanted = parts
        return f"{table}.{column}: {kind.removeprefix('modify_')} is {_plain(found)}, not {_plain(wanted)}"
    missing = parts[-1]
    table = getattr(missing, "table", None)
    where = parts[-2] if table is None and len(parts) > 1 else table
    return f"missing {kind.removeprefix('add_')} {missing.name}" + (f" of {where}" if where is not None else "")


def _plain(value: Any) -> str:
    return str(getattr(value, "arg", value))

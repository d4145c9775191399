"""Runs Alembic over the caller's connection: upgrades the schema to head, names its revision, compares its tables."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import partitions
from rwriter import schema as tables
from rwriter._validation import one_of
from rwriter._values.escape import escape
from rwriter._values.variables import SCHEMA_VARIABLE
from rwriter.engines import DbEngines, EngineProvider, as_provider, in_schema, schema_of, url_from_environment
from rwriter.errors import RwriterError, SchemaOutdated
from rwriter.migrate._adoption import adopt_with, plan
from rwriter.migrate._comparison import SchemaDrift, drift_of, has_requests
from rwriter.store import RequestStore, current_revision, revision_in_service

Target: TypeAlias = EngineProvider | AsyncEngine | URL | str | None
Period: TypeAlias = Literal["week", "day"]
"""The length of a partition."""

# migrating a large table may take hours; the lock timeouts of env.py bound the waiting
_STATEMENT_TIMEOUT = 24 * 3600.0
_TURN_POLL = 0.02
_turn = threading.Lock()


def alembic_config(schema: str | None = None) -> Config:
    """Return Alembic's configuration for rwriter's own migrations, wherever they are installed.

    Put a connection into ``config.attributes["connection"]`` to run commands over it, in its own transaction.
    """
    package = Path(__file__).parents[1]
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

    Raises ``RwriterError`` where that history is behind, where tables of another's making are in the way or are not
    partitioned as asked, and for a revision this release does not know.
    """
    async with _engine(target, schema) as (engine, name):
        await _refuse_tables_of_others(engine, name)
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


async def _refuse_tables_of_others(engine: AsyncEngine, schema: str | None) -> None:
    async with engine.connect() as connection:
        there = await connection.run_sync(has_requests, schema)
    # in this order: another process may be creating both
    if there and await current_revision(engine) is None:
        msg = (
            'relation "requests" already exists, and no version table names a revision of rwriter: run the '
            "service's own `alembic upgrade heads` if that has rwriter's revisions in its history, "
            "`rwriter migrate --adopt` if the daemon made the table, or name another schema (--schema)"
        )
        raise RwriterError(msg)


async def adopt(
    target: Target = None,
    *,
    schema: str | None = None,
    dry_run: bool = False,
    announce: Callable[[str], object] = str,
) -> list[str]:
    """Take over the tables that the daemon made: add what they lack, change nothing of theirs, record head.

    Calls ``announce`` with the name of each thing that is added, before the first of them is, and returns the names.
    With ``dry_run`` nothing is added. A database that is at a revision already is upgraded as ``upgrade`` does.

    Raises ``SchemaDrift`` with every difference that adding does not mend: nothing was changed then.
    """
    async with _engine(target, schema) as (engine, name):
        at_revision = await current_revision(engine) is not None
        async with engine.connect() as connection, _our_turn():
            names = [] if at_revision else [step.name for step in await connection.run_sync(plan, name)]
    for step in names:
        announce(step)
    if not dry_run:
        await (upgrade(target, schema=schema) if at_revision else _over(target, schema, _adopt))
    return names


def _adopt(config: Config) -> None:
    config.attributes["first"] = adopt_with(config.attributes["schema"])
    command.stamp(config, "head")


async def downgrade(target: Target = None, revision: str = "base", *, schema: str | None = None) -> None:
    """Take the database back to ``revision``. ``base`` drops the tables with every row in them.

    Of adopted tables it drops what adoption added, and nothing else.
    """
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


async def variant(target: Target = None, *, schema: str | None = None) -> str | None:
    """Return how the tables are made: ``plain``, ``week`` or ``day``, or ``None`` where there are none."""
    async with _engine(target, schema) as (engine, _):
        return await partitions.variant(engine)


async def check(target: Target = None, *, schema: str | None = None) -> None:
    """Raise ``SchemaOutdated`` below head, and ``SchemaDrift`` where something rwriter needs is missing or differs.

    Additions by others (columns and indexes of the daemon, of a later release) are no drift.
    """
    async with _engine(target, schema) as (engine, name):
        start = await _start_check(engine)
        async with engine.connect() as connection, _our_turn():
            drift = await connection.run_sync(drift_of, name)
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
    # alembic.context, alembic.op and the filters of warnings are globals of the process: two migrations at once would
    # run over each other's. Polled, because the holder may be on another thread's loop as well as on this one.
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
        url = target or url_from_environment()
        async with DbEngines.from_url(url, pgbouncer=True, statement_timeout=_STATEMENT_TIMEOUT) as engines:
            name = schema or from_environment
            yield in_schema(engines.write, name), name
    else:
        engine = as_provider(target).write
        name = schema or schema_of(engine) or from_environment
        yield in_schema(engine, name), name

"""Runs rwriter's migrations for Alembic: over the caller's connection, over one of its own, or offline as SQL.

An upgrade holds an advisory lock on its session and runs each revision in a transaction of its own, so that a revision
may build an index CONCURRENTLY in an ``autocommit_block()``. (Such a revision sets ``lock_timeout`` to 0 in the block:
the build takes no lock that a writer would queue behind, and waits for every transaction that is older than itself.)
Over a connection that is in a transaction already, everything happens in that one; behind a pooler, which may give each
transaction another session, in a single one of ours.
"""

from __future__ import annotations

import logging.config
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from alembic import context
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from rwriter._database_errors import sqlstate_of
from rwriter.errors import RwriterError
from rwriter.migrate import (
    SCHEMA_VARIABLE,
    additions_spared,
    declared,
    is_adopted,
    is_our_object,
    is_ours,
    quiet_reflection,
    run_with_connection,
)
from rwriter.schema import VERSION_TABLE
from rwriter.store import encoding_refusal

# any constant will do, as long as every release uses the same
ADVISORY_LOCK = 7_220_514_906_331_187_201
# pods queue on the advisory lock for as long as the first one's upgrade may take
QUEUE_SECONDS = 300
POLL_SECONDS = 0.05
# While a table lock is waited for, every writer queues behind the waiting: so briefly, and then again after a pause.
LOCK_TIMEOUT, LOCK_ATTEMPTS, LOCK_PAUSE = "500ms", 40, 1.0
LOCK_NOT_HAD = {"55P03", "40P01"}

# of the role or of a caller, for requests and not for migrations
TIME_OUTS = ("statement_timeout", "idle_in_transaction_session_timeout")

config: Config = context.config


def target_schema(connection: Connection | None = None) -> str | None:
    """Return the schema named by ``-x schema=``, else by the caller, the connection's engine or the environment."""
    asked = context.get_x_argument(as_dictionary=True).get("schema")
    options = connection.get_execution_options() if connection is not None else {}
    translated = options.get("schema_translate_map", {}).get(None)
    return asked or config.attributes.get("schema") or translated or os.environ.get(SCHEMA_VARIABLE) or None


def create_schema(schema: str) -> str:
    """Return SQL that creates ``schema`` if missing: IF NOT EXISTS alone needs the privilege even for an old one."""
    literal = schema.replace("'", "''")
    body = (
        f"BEGIN IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{literal}') "
        f"THEN CREATE SCHEMA IF NOT EXISTS {quoted(schema)}; END IF; END"
    )
    tag = "$rwriter$"
    while tag in body:
        tag = f"{tag[:-1]}_$"
    return f"DO {tag} {body} {tag}"


def quoted(schema: str) -> str:
    """Return ``schema`` as an SQL identifier."""
    return '"' + schema.replace('"', '""') + '"'


def configure(schema: str | None, **options: Any) -> None:
    """Configure Alembic the same way for every mode."""
    context.configure(
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        include_name=is_ours,
        include_object=is_our_object,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
        **options,
    )


def writes() -> bool:
    """Return True for an upgrade, downgrade or stamp: Alembic names a destination for those alone."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def run(connection: Connection, schema: str | None) -> None:
    """Run what the command asked for."""
    # `check` and the like must not leave a version table behind; Alembic itself knows that of `current` alone
    with nullcontext() if connection.in_transaction() else connection.begin():
        spared, tables = additions_spared if is_adopted(connection) else None, declared(connection)
    options = {"target_metadata": tables, "process_revision_directives": spared}
    configure(schema, connection=connection, dont_mutate=not writes(), **options)
    with context.begin_transaction(), quiet_reflection():
        context.run_migrations()


def before_the_revisions(connection: Connection) -> None:
    """Do the work of an adoption."""
    work: Callable[[Connection], None] | None = config.attributes.get("first")
    if work is not None:
        work(connection)


def setting(connection: Connection, name: str) -> str | None:
    """Return the value of a setting of the session."""
    value: str | None = connection.scalar(text("SELECT current_setting(:name)"), {"name": name})
    return value


def assign(connection: Connection, values: dict[str, str | None], *, local: bool) -> None:
    """Set settings, until the end of the transaction or of the session."""
    for name, value in values.items():
        parameters = {"name": name, "value": value, "local": local}
        connection.execute(text("SELECT set_config(:name, :value, :local)"), parameters)


def wanted(schema: str | None) -> dict[str, str | None]:
    """Return the settings of a migration."""
    settings: dict[str, str | None] = dict.fromkeys(TIME_OUTS, "0")
    settings["lock_timeout"] = LOCK_TIMEOUT
    return settings if schema is None else settings | {"search_path": quoted(schema)}


def prepare(connection: Connection, schema: str | None, *, local: bool) -> dict[str, str | None]:
    """Apply the settings of a migration and create the schema. Returns what the settings were before."""
    settings = wanted(schema)
    before = {name: setting(connection, name) for name in settings}
    refuse_autocommit(connection)
    refuse_encoding(connection)
    assign(connection, settings, local=local)
    return before


def refuse_autocommit(connection: Connection) -> None:
    """Raise if SET LOCAL has no effect: a revision that fails half-way would leave its half."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    if setting(connection, "lock_timeout") != LOCK_TIMEOUT:
        msg = "the connection is in autocommit mode: hand over one with a transaction"
        raise CommandError(msg)


def refuse_encoding(connection: Connection) -> None:
    """Raise if the database cannot hold every text."""
    refusal = encoding_refusal(setting(connection, "server_encoding"))
    if refusal is not None:
        raise CommandError(refusal)


def take_turn(connection: Connection, function: str) -> None:
    """Take the advisory lock, asking again and again.

    To wait within one statement would hold its snapshot, which an index build of the upgrade before waits for.
    """
    for _ in range(int(QUEUE_SECONDS / POLL_SECONDS)):
        with nullcontext() if connection.in_transaction() else connection.begin():
            if connection.scalar(text(f"SELECT {function}({ADVISORY_LOCK})")):
                return
            # on the server: a sleep here would stop the caller's event loop
            connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": POLL_SECONDS})
    msg = f"another upgrade of this database has been running for {QUEUE_SECONDS} s: try again when it is done"
    raise CommandError(msg)


def migrate_inside(connection: Connection, schema: str | None) -> None:
    """Run the migrations in the caller's transaction, and put the caller's settings back."""
    before = prepare(connection, schema, local=True)
    take_turn(connection, "pg_try_advisory_xact_lock")
    if schema is not None:
        connection.exec_driver_sql(create_schema(schema))
    before_the_revisions(connection)
    try:
        run(connection, schema)
    except AssertionError as exc:
        msg = "this revision cannot run in a transaction: hand over a connection that is in none"
        raise CommandError(msg) from exc
    assign(connection, before, local=True)


@contextmanager
def session(connection: Connection, schema: str | None) -> Iterator[None]:
    """Hold the advisory lock and the settings of a migration on the session; give both back afterwards."""
    with connection.begin():
        before = prepare(connection, schema, local=False)
    try:
        take_turn(connection, "pg_try_advisory_lock")
        try:
            yield
        finally:
            afterwards(connection, lambda: connection.exec_driver_sql(f"SELECT pg_advisory_unlock({ADVISORY_LOCK})"))
    finally:
        afterwards(connection, lambda: assign(connection, before, local=False))


def afterwards(connection: Connection, work: Callable[[], object]) -> None:
    """Do ``work`` in a transaction, whatever happened before, if the connection is still there."""
    if not connection.invalidated:
        connection.rollback()
        with connection.begin():
            work()


def migrate_alone(connection: Connection, schema: str | None) -> None:
    """Run each revision in a transaction of its own; ask again for a table lock that was not to be had."""
    with session(connection, schema):
        if schema is not None:
            with connection.begin():
                connection.exec_driver_sql(create_schema(schema))
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                before_the_revisions(connection)
                run(connection, schema)
            except PendingRollbackError as exc:
                # a connection that died in an autocommit_block, whose end hides why
                raise exc.__context__ or exc from None
            except DBAPIError as exc:
                if sqlstate_of(exc) not in LOCK_NOT_HAD or attempt == LOCK_ATTEMPTS:
                    raise
                afterwards(connection, lambda: connection.exec_driver_sql(f"SELECT pg_sleep({LOCK_PAUSE})"))
            else:
                return


def read(connection: Connection, schema: str | None) -> None:
    """Run a command that changes nothing."""
    with nullcontext() if connection.in_transaction() else connection.begin():
        before = {"search_path": setting(connection, "search_path")}
        if schema is not None:
            assign(connection, {"search_path": quoted(schema)}, local=True)
        run(connection, schema)
        assign(connection, before, local=True)


def behind_a_pooler(connection: Connection) -> bool:
    """Return True where somebody else keeps the sessions: what is set or locked on one may be another's next.

    A pooler hands out numbers of its own for the cancelling of queries.
    """
    told = getattr(connection.connection.driver_connection, "get_server_pid", None)
    with connection.begin():
        return told is not None and told() != connection.scalar(text("SELECT pg_backend_pid()"))


def migrate(connection: Connection) -> None:
    """Run the migrations in the caller's transaction, or in transactions of ours."""
    schema = target_schema(connection)
    if not writes():
        read(connection, schema)
    elif connection.in_transaction():
        migrate_inside(connection, schema)
    elif behind_a_pooler(connection):
        with connection.begin():
            migrate_inside(connection, schema)
    else:
        migrate_alone(connection, schema)
        # what Alembic read after its last transaction
        connection.rollback()


def migrate_offline() -> None:
    """Print the SQL."""
    schema = target_schema()
    settings = {**dict.fromkeys(TIME_OUTS, "0"), "lock_timeout": f"{QUEUE_SECONDS}s"}
    configure(schema, dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    say(f"SET {name} = '{value}'" for name, value in settings.items())
    say([f"SELECT pg_advisory_lock({ADVISORY_LOCK})", f"SET lock_timeout = '{LOCK_TIMEOUT}'"])
    if schema is not None:
        say([create_schema(schema), f"SET search_path TO {quoted(schema)}"])
    with context.begin_transaction():
        context.run_migrations()
    say([f"SELECT pg_advisory_unlock({ADVISORY_LOCK})"])
    say(f"RESET {name}" for name in wanted(schema))


def say(statements: Any) -> None:
    """Add statements to the script."""
    for statement in statements:
        # a colon in the schema's name is no bind parameter
        context.execute(statement.replace(":", r"\:"))


def main() -> None:
    """Choose the mode."""
    if context.is_offline_mode():
        migrate_offline()
        return
    connection = config.attributes.get("connection")
    if connection is not None:
        migrate(connection)
        return
    # the command line's own process: elsewhere the host application has configured logging
    if config.config_file_name is not None and config.cmd_opts is not None:
        logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)
    try:
        run_with_connection(None, migrate)
    except RwriterError as exc:
        raise CommandError(str(exc)) from exc


main()

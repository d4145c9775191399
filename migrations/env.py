"""Runs rwriter's migrations for Alembic: over the caller's connection, over one of its own, or offline as SQL."""

from __future__ import annotations

import logging.config
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, text

from rwriter.errors import RwriterError
from rwriter.migrate import SCHEMA_VARIABLE, is_ours, run_with_connection
from rwriter.schema import VERSION_TABLE, metadata

# any constant will do, as long as every release uses the same
ADVISORY_LOCK = 7_220_514_906_331_187_201
# pods queue on the advisory lock for as long as the first one's upgrade may take; no table lock is waited for so long
QUEUE_TIMEOUT, LOCK_TIMEOUT = "300s", "10s"

config = context.config


def target_schema(connection: Connection | None = None) -> str | None:
    """Return the schema named by ``-x schema=``, else by the caller, the connection's engine or the environment."""
    asked = context.get_x_argument(as_dictionary=True).get("schema")
    options = connection.get_execution_options() if connection is not None else {}
    translated = options.get("schema_translate_map", {}).get(None)
    return asked or config.attributes.get("schema") or translated or os.environ.get(SCHEMA_VARIABLE) or None


def turn() -> Iterator[str]:
    """Yield statements that take turns with other upgrades, and then bound the wait for table locks."""
    yield f"SET LOCAL lock_timeout = '{QUEUE_TIMEOUT}'"
    yield f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"
    yield f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"


def create_schema(schema: str) -> str:
    """Return SQL that creates ``schema`` if missing: IF NOT EXISTS alone needs the privilege even for an old one."""
    literal = schema.replace("'", "''")
    return (
        f"DO $rwriter$ BEGIN IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{literal}') "
        f"THEN CREATE SCHEMA IF NOT EXISTS {quoted(schema)}; END IF; END $rwriter$"
    )


def use_schema(schema: str) -> str:
    """Return SQL that points unqualified names at ``schema`` alone."""
    return f"SET LOCAL search_path TO {quoted(schema)}"


def quoted(schema: str) -> str:
    """Return ``schema`` as an SQL identifier."""
    return '"' + schema.replace('"', '""') + '"'


def configure(schema: str | None, **options: Any) -> None:
    """Configure Alembic the same way for every mode."""
    context.configure(
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        include_name=is_ours,
        compare_type=True,
        compare_server_default=True,
        **options,
    )


def writes() -> bool:
    """Return True for an upgrade, downgrade or stamp: Alembic names a destination for those alone."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


@contextmanager
def settings(connection: Connection, schema: str | None) -> Iterator[None]:
    """Take turns with other upgrades and point at the schema; put a caller's own settings back afterwards."""
    names = ("lock_timeout", "search_path")
    before = {name: setting(connection, name) for name in names}
    if writes():
        for statement in turn():
            connection.exec_driver_sql(statement)
        refuse_autocommit(connection)
        if schema is not None:
            connection.exec_driver_sql(create_schema(schema))
    if schema is not None:
        connection.exec_driver_sql(use_schema(schema))
    yield
    for name, value in before.items():
        connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})


def setting(connection: Connection, name: str) -> str | None:
    """Return the value of a setting of the session."""
    value: str | None = connection.scalar(text("SELECT current_setting(:name)"), {"name": name})
    return value


def refuse_autocommit(connection: Connection) -> None:
    """Raise if SET LOCAL had no effect: the lock would be released at once, and the schema be the wrong one."""
    if setting(connection, "lock_timeout") != LOCK_TIMEOUT:
        msg = "the connection is in autocommit mode: hand over one with a transaction"
        raise CommandError(msg)


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction: the caller's, or one of ours."""
    schema = target_schema(connection)
    with nullcontext() if connection.in_transaction() else connection.begin(), settings(connection, schema):
        # `check` and the like must not leave a version table behind; Alembic itself knows that of `current` alone
        configure(schema, connection=connection, dont_mutate=not writes())
        with context.begin_transaction():
            context.run_migrations()


def migrate_offline() -> None:
    """Print the SQL."""
    schema = target_schema()
    configure(schema, dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        for statement in (*turn(), *((create_schema(schema), use_schema(schema)) if schema is not None else ())):
            # a colon in the schema's name is no bind parameter
            context.execute(statement.replace(":", r"\:"))
        context.run_migrations()


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

"""How Alembic runs rwriter's migrations: over a connection handed over, one of its own, or offline as SQL."""

from __future__ import annotations

import logging.config
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from rwriter.migrate import SCHEMA_VARIABLE, is_ours, run_with_connection
from rwriter.schema import VERSION_TABLE, metadata

# any constant will do, as long as every release uses the same
ADVISORY_LOCK = 7_220_514_906_331_187_201
# pods queue on the advisory lock for as long as the first one's upgrade may take; no table lock is waited for so long
QUEUE_TIMEOUT, LOCK_TIMEOUT = "300s", "10s"

config = context.config


def target_schema() -> str | None:
    """The schema asked for by ``-x schema=``, by the caller, or by the environment, in that order."""
    asked = context.get_x_argument(as_dictionary=True).get("schema")
    return asked or config.attributes.get("schema") or os.environ.get(SCHEMA_VARIABLE) or None


def quoted(schema: str) -> str:
    """``schema`` as an SQL identifier."""
    return '"' + schema.replace('"', '""') + '"'


def configure(**options: Any) -> None:
    """Configure Alembic the same way for every mode."""
    context.configure(
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=is_ours,
        compare_type=True,
        compare_server_default=True,
        **options,
    )


def writes() -> bool:
    """Whether this is an upgrade, downgrade or stamp: Alembic names a destination for those alone."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


@contextmanager
def settings(connection: Connection) -> Iterator[None]:
    """Take turns with other upgrades and point at the schema; put a caller's own settings back afterwards."""
    names = ("lock_timeout", "search_path")
    before = {name: connection.scalar(text("SELECT current_setting(:name)"), {"name": name}) for name in names}
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{QUEUE_TIMEOUT}'")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    if (schema := target_schema()) is not None:
        exists = connection.scalar(text("SELECT count(*) FROM pg_namespace WHERE nspname = :name"), {"name": schema})
        # asked first: CREATE SCHEMA IF NOT EXISTS needs the privilege even where it has nothing to do
        if not exists and writes():
            connection.exec_driver_sql(f"CREATE SCHEMA {quoted(schema)}")
        connection.exec_driver_sql(f"SET LOCAL search_path TO {quoted(schema)}")
    yield
    for name, value in before.items():
        connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction: the caller's, or one of ours."""
    with nullcontext() if connection.in_transaction() else connection.begin(), settings(connection):
        configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()


def migrate_offline() -> None:
    """Print the SQL."""
    configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        if (schema := target_schema()) is not None:
            context.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
            context.execute(f"SET LOCAL search_path TO {quoted(schema)}")
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
    run_with_connection(None, migrate)


main()

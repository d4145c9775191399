"""Adopts the tables that the daemon made: adds what this release needs, and changes nothing that is there.

What it adds carries a comment, and so does the version table of a database whose tables were adopted. A downgrade drops
the commented things there and spares the rest (see the revisions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from alembic.util import CommandError
from sqlalchemy import URL, Column, Connection, Index, MetaData, String, Table, select, text
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from rwriter import schema as tables
from rwriter.migrate._comparison import (
    Difference,
    SchemaDrift,
    describe,
    differences,
    half_built_indexes,
    obstacles,
    use_schema,
)

MADE: Final = "made by rwriter migrate --adopt"
"""The comment of what adoption adds. The revisions, which are frozen, have these words too."""

ADOPTED: Final = "rwriter adopted requests and request_templates"
"""The comment of the version table where the two tables are another program's. The revisions have these words too."""

_OF_OUR_OWN: Final = ("dead_letters", "erasures", "ledger")
_POSTGRESQL: Final = URL.create("postgresql+asyncpg").get_dialect()()

_IS_ADOPTED: Final = text("SELECT obj_description(to_regclass(:name), 'pg_class')")

_VERSIONS: Final = Table(
    tables.VERSION_TABLE,
    MetaData(),
    # as Alembic makes it
    Column("version_num", String(32), primary_key=True),
)


class Step(msgspec.Struct, frozen=True):
    """A thing that adoption adds. ``concurrently``: its statements run beside writers, each outside any transaction."""

    name: str
    statements: tuple[str, ...]
    concurrently: bool = False


def is_adopted(connection: Connection) -> bool:
    """Return True if the tables are another program's, and rwriter adopted them."""
    return bool(connection.scalar(_IS_ADOPTED, {"name": tables.VERSION_TABLE}) == ADOPTED)


def plan(connection: Connection, schema: str | None) -> list[Step]:
    """Return what adoption adds, in order.

    Raises ``SchemaDrift`` with every difference that adding does not mend.
    """
    use_schema(connection, schema)
    found = differences(connection)
    refused = [*(describe(diff) for diff in found if not _can_be_added(diff)), *obstacles(connection)]
    if refused:
        lines = "\n".join(f"  {line}" for line in refused)
        raise SchemaDrift(f"these tables cannot be adopted, and nothing was changed:\n{lines}")
    indexes = _new_indexes(found, half_built_indexes(connection))
    return [*_new_tables(found), *_new_columns(found), *indexes, _record()]


def adopt_with(schema: str | None) -> Callable[[Connection], None]:
    """Return the work that ``env.py`` does under the lock of a migration, before it stamps the revision."""

    def work(connection: Connection) -> None:
        if connection.in_transaction():
            msg = (
                "adoption builds indexes beside writers, which no transaction can, and no pooler: connect to the server"
            )
            raise CommandError(msg)
        with connection.begin():
            # another process may have been faster
            steps = [] if _is_stamped(connection) else plan(connection, schema)
        for step in steps:
            _take(connection, step)

    return work


def _is_stamped(connection: Connection) -> bool:
    if connection.scalar(text("SELECT to_regclass(:name)"), {"name": tables.VERSION_TABLE}) is None:
        return False
    return connection.execute(select(_VERSIONS)).first() is not None


def _record() -> Step:
    # its comment must be there before a row of it says that the tables are at a revision
    table = _sql(CreateTable(_VERSIONS, if_not_exists=True))
    return Step(
        f"record {tables.HEAD_REVISION} in {tables.VERSION_TABLE}",
        (table, f"COMMENT ON TABLE {tables.VERSION_TABLE} IS '{ADOPTED}'"),
    )


def _can_be_added(difference: Difference) -> bool:
    kind, *parts = difference
    if kind == "add_column":
        column: Column[Any] = parts[-1]
        return bool(column.nullable or column.server_default is not None)
    return kind == "add_index" or (kind == "add_table" and parts[0].name in _OF_OUR_OWN)


def _new_tables(found: Sequence[Difference]) -> Iterator[Step]:
    for table in (diff[1] for diff in found if diff[0] == "add_table"):
        statements = [_sql(CreateTable(table)), f"COMMENT ON TABLE {table.name} IS '{MADE}'"]
        yield Step(f"create table {table.name}", tuple(statements))


def _new_columns(found: Sequence[Difference]) -> Iterator[Step]:
    added: dict[str, list[Column[Any]]] = {}
    for _, _, table, column in (diff for diff in found if diff[0] == "add_column"):
        added.setdefault(table, []).append(column)
    # one statement a table, and so one lock
    for table, columns in added.items():
        actions = ", ".join(f"ADD COLUMN {_sql(CreateColumn(column))}" for column in columns)
        comments = [f"COMMENT ON COLUMN {table}.{column.name} IS '{MADE}'" for column in columns]
        name = f"add to {table}: {', '.join(column.name for column in columns)}"
        yield Step(name, (f"ALTER TABLE {table} {actions}", *comments))


def _new_indexes(found: Sequence[Difference], half_built: Sequence[str]) -> Iterator[Step]:
    missing = {diff[1].name for diff in found if diff[0] == "add_index"} | set(half_built)
    for table in (tables.metadata.tables[name] for name in sorted(tables.TABLES)):
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name in missing:
                yield _building(table, index)


def _building(table: Table, index: Index) -> Step:
    statements = (
        # of a process that was killed while it built
        f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}",
        _sql(CreateIndex(index)).replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1),
        f"COMMENT ON INDEX {index.name} IS '{MADE}'",
    )
    return Step(f"build index {index.name} on {table.name}", statements, concurrently=True)


def _sql(element: CreateTable | CreateColumn | CreateIndex) -> str:
    return str(element.compile(dialect=_POSTGRESQL)).strip()


def _take(connection: Connection, step: Step) -> None:
    if step.concurrently:
        _outside_transactions(connection, step.statements)
        return
    with connection.begin():
        for statement in step.statements:
            connection.exec_driver_sql(statement)


def _outside_transactions(connection: Connection, statements: Sequence[str]) -> None:
    level = connection.get_isolation_level()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        with connection.begin():
            before = connection.exec_driver_sql("SHOW lock_timeout").scalar_one()
            # the build waits for every transaction that is older than itself, and no writer waits for the build
            for statement in ("SET lock_timeout = 0", *statements, f"SET lock_timeout = '{before}'"):
                connection.exec_driver_sql(statement)
    finally:
        connection.execution_options(isolation_level=level)

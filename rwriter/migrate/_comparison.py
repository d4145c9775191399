"""Compares the tables in the database with ``rwriter.schema``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from alembic.autogenerate import compare_metadata
from alembic.autogenerate.rewriter import Rewriter
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.exc import SAWarning

from rwriter import schema as tables
from rwriter._values.escape import escape
from rwriter.errors import RwriterError
from rwriter.migrate._indexes import is_covered, present_indexes
from rwriter.migrate._names import is_our_object, is_ours

Difference: TypeAlias = tuple[Any, ...]
"""A difference as Alembic words it: its kind, then what differs."""

# differences that autogenerate reports and no statement of rwriter minds
_TOLERATED: Final = ("remove_", "modify_comment", "add_table_comment")

# A trigger before the insert may fill such a column: tgtype has the bits 1 (each row), 2 (before) and 4 (insert).
_REQUIRED_BY_OTHERS: Final = text(
    """
    SELECT c.relname::text AS table, a.attname::text AS column
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relname = ANY (:names) AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
        AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgtype & 7 = 7)
    ORDER BY c.relname, a.attnum
    """
)


class SchemaDrift(RwriterError):
    """The tables differ from ``rwriter.schema`` although the revision is right; the message lists how."""


def drift_of(connection: Connection, schema: str | None) -> list[str]:
    """Return what rwriter needs and the database lacks, and what stands in its way, a line each."""
    use_schema(connection, schema)
    half_built = [f"index {name} is invalid: its building was cut short" for name in half_built_indexes(connection)]
    return [*map(describe, differences(connection)), *obstacles(connection), *half_built]


def use_schema(connection: Connection, schema: str | None) -> None:
    """Put ``schema`` alone on the search_path until the end of the transaction."""
    if schema is not None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
        connection.exec_driver_sql(f"SET LOCAL search_path TO {quoted}")


def has_requests(connection: Connection, schema: str | None) -> bool:
    """Return True if a table ``requests`` is where rwriter's would be created."""
    use_schema(connection, schema)
    return inspect(connection).has_table("requests", schema=connection.scalar(text("SELECT current_schema()")))


def differences(connection: Connection) -> list[Difference]:
    """Return what Alembic finds, but for additions by others and for indexes that theirs make superfluous."""
    opts = {"include_name": is_ours, "include_object": is_our_object, "compare_server_default": True}
    with quiet_reflection():
        found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=opts), declared(connection))
    # changes to one column come as a list, everything else alone
    diffs = [diff for item in found for diff in (item if isinstance(item, list) else [item])]
    present = present_indexes(connection)
    return [
        diff
        for diff in diffs
        if not (diff[0].startswith(_TOLERATED) or (diff[0] == "add_index" and is_covered(diff[1], present)))
    ]


def declared(connection: Connection) -> MetaData:
    """Return the tables that the database should have: those of the partitioned variant where it has that."""
    is_partitioned = connection.scalar(text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('requests')"))
    return tables.partitioned_metadata if is_partitioned else tables.metadata


@contextmanager
def quiet_reflection() -> Iterator[None]:
    """Ignore SQLAlchemy's warning about check constraints that are NOT VALID: it takes NOT VALID for a dialect."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Can't validate argument 'dialect_options'", SAWarning)
        yield


def obstacles(connection: Connection) -> list[str]:
    """Return what Alembic does not look at: columns that others require, and missing keys."""
    return [escape(line) for line in (*_required_by_others(connection), *_keys(connection))]


def half_built_indexes(connection: Connection) -> list[str]:
    """Return the names of rwriter's indexes that a process which was killed has left invalid."""
    ours = {index.name for name in tables.TABLES for index in tables.metadata.tables[name].indexes}
    return [index.name for index in present_indexes(connection) if index.name in ours and not index.valid]


def _required_by_others(connection: Connection) -> Iterator[str]:
    for table, column in connection.execute(_REQUIRED_BY_OTHERS, {"names": list(tables.TABLES)}):
        if column not in tables.metadata.tables[table].columns:
            yield f"{table}.{column}: NOT NULL without a default, so that no record of rwriter's can be stored"


def _keys(connection: Connection) -> Iterator[str]:
    inspector = inspect(connection)
    for name in sorted(tables.TABLES & set(inspector.get_table_names())):
        wanted = [column.name for column in tables.metadata.tables[name].primary_key.columns]
        if inspector.get_pk_constraint(name)["constrained_columns"] != wanted:
            yield f"{name}: the primary key is not {', '.join(wanted)}"


def describe(difference: Difference) -> str:
    """Return a difference in words."""
    kind, *parts = difference
    if kind.startswith("modify_"):
        _, table, column, _, found, wanted = parts
        return escape(f"{table}.{column}: {kind.removeprefix('modify_')} is {_plain(found)}, not {_plain(wanted)}")
    missing = parts[-1]
    table = getattr(missing, "table", None)
    where = parts[-2] if table is None and len(parts) > 1 else table
    return escape(f"missing {kind.removeprefix('add_')} {missing.name}" + (f" of {where}" if where is not None else ""))


def _plain(value: Any) -> str:
    return str(getattr(value, "arg", value))


additions_spared: Final = Rewriter()
"""Takes out of autogenerate's proposals all that would undo what another program has on tables that it made."""


def _keep(_context: Any, _revision: Any, _op: Any) -> list[Any]:
    return []


for _operation in (ops.DropColumnOp, ops.DropIndexOp, ops.DropConstraintOp, ops.DropTableCommentOp):
    additions_spared.rewrites(_operation)(_keep)


@additions_spared.rewrites(ops.AlterColumnOp)
def _keep_comment(_context: Any, _revision: Any, op: ops.AlterColumnOp) -> Any:
    op.modify_comment = False
    return op if op.has_changes() else []


@additions_spared.rewrites(ops.CreateIndexOp)
def _spare_index(context: MigrationContext, _revision: Any, op: ops.CreateIndexOp) -> Any:
    connection = context.connection
    return [] if connection is not None and is_covered(op.to_index(), present_indexes(connection)) else op

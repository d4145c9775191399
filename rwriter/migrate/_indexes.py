"""Reads the indexes that are there, and tells which of ours they make superfluous."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import Connection, Index, text
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import desc_op

# indoption: 0 is ascending with nulls last, 3 descending with nulls first, PostgreSQL's defaults and rwriter's
_PRESENT: Final = text(
    """
    SELECT t.relname::text AS table, i.relname::text AS name, x.indisvalid AS valid,
        pg_get_expr(x.indpred, x.indrelid) AS predicate,
        am.amname = 'btree' AND NOT EXISTS (
            SELECT FROM unnest(x.indclass) AS c JOIN pg_opclass o ON o.oid = c WHERE NOT opcdefault
        ) AS plain,
        ARRAY(
            SELECT coalesce(a.attname::text, '()') ||
                CASE x.indoption[k] WHEN 0 THEN '' WHEN 3 THEN ' DESC' ELSE ' ?' END
            FROM generate_series(0, x.indnkeyatts - 1) AS k
            LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[k]
            ORDER BY k
        ) AS keys
    FROM pg_index x
    JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_am am ON am.oid = i.relam
    JOIN pg_class t ON t.oid = x.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = current_schema()
    """
)


class PresentIndex(msgspec.Struct, frozen=True, kw_only=True):
    """An index in the database. ``plain`` is a btree in the types' usual order."""

    table: str
    name: str
    valid: bool
    predicate: str | None
    plain: bool
    keys: list[str]

    def covers(self, index: Index) -> bool:
        """Return True if queries that want ``index`` are as well off with this one.

        Its first keys are those of ``index``, in the same directions, over the same rows. An index over all rows also
        does for one that leaves out the NULLs of its first key.
        """
        wanted = [_key(expression) for expression in index.expressions]
        if not (self.valid and self.plain and self.table == _table_of(index) and self.keys[: len(wanted)] == wanted):
            return False
        rows = _predicate(index)
        return rows == _plain(self.predicate) or (self.predicate is None and rows == f"{wanted[0]} is not null")


def present_indexes(connection: Connection) -> list[PresentIndex]:
    """Return the indexes of every table in the current schema."""
    return [PresentIndex(**row) for row in connection.execute(_PRESENT).mappings()]


def is_covered(index: Index, present: Iterable[PresentIndex]) -> bool:
    """Return True if an index of any name does what ``index`` is for."""
    return any(other.covers(index) for other in present)


def _table_of(index: Index) -> str:
    return "" if index.table is None else index.table.name


def _key(expression: object) -> str:
    if isinstance(expression, UnaryExpression) and expression.modifier is desc_op:
        return f"{expression.element.name} DESC"
    return str(getattr(expression, "name", ""))


def _predicate(index: Index) -> str:
    where = index.dialect_options["postgresql"]["where"]
    return "" if where is None else _plain(str(where))


def _plain(predicate: str | None) -> str:
    # rwriter's own columns need no quotes; the table's name and the parentheses are the printers'
    return re.sub(r"[()\"]|\b(requests|request_templates|dead_letters)\.", "", predicate or "").lower()

"""Reads the sizes of the tables out of the server's own books: no row is read."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter.engines import schema_of

TABLES: Final = ("requests", "request_templates", "dead_letters")


class TableSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a table, of its partitions together: ``rows`` is the server's estimate, the others are bytes."""

    table: str
    rows: int
    table_bytes: int
    index_bytes: int


# of a partitioned table the partitions: it has no pages of its own, and its estimate counts their rows again
_SIZES: Final = text(
    """
    SELECT t.name AS "table", sum(greatest(c.reltuples, 0))::bigint AS rows,
        sum(pg_table_size(c.oid))::bigint AS table_bytes, sum(pg_indexes_size(c.oid))::bigint AS index_bytes
    FROM unnest(CAST(:names AS text[]), CAST(:resolved AS text[])) WITH ORDINALITY AS t (name, resolved, place)
    CROSS JOIN LATERAL (
        SELECT to_regclass(t.resolved)::oid AS oid
        UNION SELECT relid FROM pg_partition_tree(to_regclass(t.resolved))
    ) AS part JOIN pg_class c ON c.oid = part.oid AND c.relkind = 'r'
    GROUP BY t.name, t.place ORDER BY t.place
    """
)


async def table_sizes(connection: AsyncConnection) -> list[TableSize]:
    """Return the sizes of the tables that rows go to, those that are there."""
    quote, schema = connection.dialect.identifier_preparer.quote_identifier, schema_of(connection.engine)
    prefix = "" if schema is None else f"{quote(schema)}."
    asked = {"names": list(TABLES), "resolved": [f"{prefix}{quote(name)}" for name in TABLES]}
    rows = (await connection.execute(_SIZES, asked)).mappings()
    return [TableSize(**row) for row in rows]

"""Partitions set aside: detached beside writers, so that nothing is added to them, and dropped or attached again.

An archive compares a partition that is set aside with what it wrote. The comment of the table holds the bounds, so that
a crash between the two leaves a partition that the next run knows what to do with.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter.partitions._catalog import Partition, partitioned, quoted
from rwriter.partitions._dropping import complete, detach
from rwriter.schema import PARTITIONED_TABLES, first_id, made_at

MARK: Final = "rwriter: set aside, ids from {first} to {end}"

_MARKED: Final = re.compile(r"rwriter: set aside, ids from ([0-9a-f-]{36}) to ([0-9a-f-]{36})")

_ASIDE: Final = text(
    """
    SELECT n.nspname AS schema, c.relname AS name, obj_description(c.oid, 'pg_class') AS comment
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class p ON p.relnamespace = n.oid AND p.oid = to_regclass(:requests)
    WHERE c.relkind = 'r' AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') LIKE 'rwriter: set aside%'
    ORDER BY c.relname
    """
)


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """A table that was detached and is neither dropped nor attached again. ``parent`` is the table it belongs to."""

    schema: str
    name: str
    parent: str
    first: uuid.UUID
    end: uuid.UUID

    def is_of(self, partition: Partition) -> bool:
        """Return True if the table holds the ids of ``partition``."""
        return made_at(self.first) == partition.start and made_at(self.end) == partition.end


async def aside(connection: AsyncConnection, schema: str | None) -> list[Aside]:
    """Return the tables that are set aside."""
    found = (await connection.execute(_ASIDE, {"requests": quoted(connection, schema, "requests")})).mappings().all()
    tables = []
    for row in found:
        parent = "request_templates" if row["name"].startswith("request_templates") else "requests"
        if match := _MARKED.fullmatch(row["comment"]):
            bounds = {"first": uuid.UUID(match[1]), "end": uuid.UUID(match[2])}
            tables.append(Aside(schema=row["schema"], name=row["name"], parent=parent, **bounds))
    return tables


async def set_aside(
    connection: AsyncConnection, schema: str | None, partition: Partition, patience: float
) -> list[Aside]:
    """Detach both tables of ``partition`` as far as they are attached, and return them. Writers go on.

    ``connection`` is in autocommit. Raises ``RwriterError`` after ``patience`` seconds: the next call goes on.
    """
    await complete(connection, await partitioned(connection, schema), patience)
    catalog = await partitioned(connection, schema)
    mark = MARK.format(first=first_id(partition.start), end=first_id(partition.end))
    # requests first: a template without a request is seen by nobody
    for parent in PARTITIONED_TABLES:
        for child in catalog.of(parent):
            if child.name in partition.tables:
                # said before, so that a crash leaves no table that nobody knows
                table = quoted(connection, child.schema, child.name)
                await connection.exec_driver_sql(f"COMMENT ON TABLE {table} IS '{mark}'")
                await detach(connection, child, "CONCURRENTLY", patience)
    return [each for each in await aside(connection, schema) if each.is_of(partition)]


async def drop_aside(connection: AsyncConnection, tables: Sequence[Aside]) -> None:
    """Drop tables that are set aside, the requests first."""
    for each in sorted(tables, key=lambda table: table.parent, reverse=True):
        await connection.exec_driver_sql(f"DROP TABLE {quoted(connection, each.schema, each.name)}")


async def attach_again(connection: AsyncConnection, tables: Sequence[Aside]) -> None:
    """Attach tables that are set aside, the templates first: a request without its template would have no body."""
    for each in sorted(tables, key=lambda table: table.parent):
        whole, part = (quoted(connection, each.schema, name) for name in (each.parent, each.name))
        bounds = f"FROM ('{each.first}') TO ('{each.end}')"
        await connection.exec_driver_sql(f"ALTER TABLE {whole} ATTACH PARTITION {part} FOR VALUES {bounds}")
        await connection.exec_driver_sql(f"COMMENT ON TABLE {part} IS NULL")

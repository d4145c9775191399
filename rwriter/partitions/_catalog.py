"""The partitions as the database's catalogue has them: which tables, which ids, how large."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter.engines import EngineProvider, as_provider, in_schema, schema_of
from rwriter.errors import RwriterError
from rwriter.schema import PARTITIONED_TABLES, first_id, made_at

DOOMED: Final = "rwriter: to be dropped"
"""The comment of a partition that ``drop`` began to drop. A table that somebody else detached is left alone."""

PERIODS: Final = {"week": timedelta(weeks=1), "day": timedelta(days=1)}

_ADVICE: Final = {
    "incomplete": "one of the two tables of these ids is missing: run `rwriter partitions ensure`",
    "detaching": "dropping it was cut short: run `rwriter partitions drop` again",
}

_BOUNDS: Final = re.compile(r"FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)")

# to_jsonb(), because a server before 14 knows no pending detach
_ATTACHED: Final = text(
    """
    SELECT n.nspname AS schema, p.relname AS parent, c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds,
        coalesce(CAST(to_jsonb(i) ->> 'inhdetachpending' AS boolean), false) AS detaching,
        greatest(CAST(c.reltuples AS bigint), 0) AS rows, pg_total_relation_size(c.oid) AS size,
        coalesce(c.reloptions, '{}') AS options, coalesce(toast.reloptions, '{}') AS toast_options
    FROM pg_partitioned_table t
    JOIN pg_class p ON p.oid = t.partrelid JOIN pg_namespace n ON n.oid = p.relnamespace
    LEFT JOIN (pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid) ON i.inhparent = p.oid
    LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
    WHERE p.oid IN (to_regclass(:requests), to_regclass(:request_templates))
    ORDER BY p.relname, c.relname
    """
)

_REQUESTS_ARE: Final = text("SELECT CAST(to_regclass(:requests) AS text)")

_DETACHED: Final = text(
    """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class p ON p.relnamespace = n.oid AND p.oid = to_regclass(:requests)
    WHERE c.relkind = 'r' AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') = :comment
    ORDER BY c.relname
    """
)


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """The requests and templates whose ids were made from ``start`` on and before ``end``.

    ``tables`` names the two tables, ``rows`` is the planner's estimate of the requests, ``size`` counts the bytes of
    both with their indexes. A partition is ``incomplete`` where one of the two tables is missing, and ``detaching``
    where ``drop`` was cut short: call it again.
    """

    start: datetime
    end: datetime
    rows: int
    size: int
    state: Literal["attached", "incomplete", "detaching"]
    tables: tuple[str, ...]


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of one table. ``first`` and ``end`` bound its ids and are ``None`` for a default partition."""

    schema: str
    parent: str
    name: str
    first: uuid.UUID | None
    end: uuid.UUID | None
    detaching: bool
    rows: int
    size: int
    settings: dict[str, str]


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue says of one database's partitioned tables; ``schemas`` has an entry for each of them."""

    schemas: dict[str, str]
    children: list[Child]

    @property
    def is_partitioned(self) -> bool:
        """True where both tables are partitioned."""
        return set(self.schemas) == set(PARTITIONED_TABLES)

    @property
    def has_default(self) -> bool:
        """True where a default partition, which rwriter never makes, takes whatever no other does."""
        return any(child.first is None for child in self.children)

    def of(self, parent: str) -> list[Child]:
        """Return the partitions of one table that have bounds, in the order of their ids."""
        bounded = [child for child in self.children if child.parent == parent and child.first is not None]
        return sorted(bounded, key=lambda child: child.first or uuid.UUID(int=0))

    @property
    def step(self) -> timedelta:
        """The length of the latest partition, which the next one will have. Raises where there is none."""
        bounded = [partition for partition in partitions_in(self) if partition.state != "detaching"]
        if not bounded:
            raise RwriterError("the tables have no partition left that says how long the next one is to be")
        return bounded[-1].end - bounded[-1].start


def engine_of(engines: EngineProvider | AsyncEngine, schema: str | None) -> tuple[AsyncEngine, str | None]:
    """Return the engine that writes, and the schema of the tables where that is not the search_path's."""
    engine = as_provider(engines).write
    name = schema or schema_of(engine)
    return in_schema(engine, name), name


async def variant(engines: EngineProvider | AsyncEngine, *, schema: str | None = None) -> str | None:
    """Return ``plain``, ``week`` or ``day`` as the tables of the database are, or ``None`` where there are none.

    For partitions of another length, which rwriter never makes, that length in words.
    """
    engine, name = engine_of(engines, schema)
    async with engine.connect() as connection:
        if await connection.scalar(_REQUESTS_ARE, _names(connection, name)) is None:
            return None
        catalog = await read(connection, name)
    return (period_of(catalog) or "week") if catalog.is_partitioned else "plain"


async def listing(engines: EngineProvider | AsyncEngine, *, schema: str | None = None) -> list[Partition]:
    """Return the partitions, oldest first. Raises ``RwriterError`` where the tables are not partitioned."""
    engine, name = engine_of(engines, schema)
    async with engine.connect() as connection:
        return partitions_in(await partitioned(connection, name))


async def read(connection: AsyncConnection, schema: str | None) -> Catalog:
    """Return what the catalogue says. ``schema`` is where the tables are, ``None`` the search_path's."""
    found = (await connection.execute(_ATTACHED, _names(connection, schema))).mappings().all()
    schemas = {row["parent"]: row["schema"] for row in found}
    return Catalog(schemas=schemas, children=[_child(row) for row in found if row["name"] is not None])


async def partitioned(connection: AsyncConnection, schema: str | None) -> Catalog:
    """Return what the catalogue says. Raises ``RwriterError`` where the tables are plain or missing."""
    catalog = await read(connection, schema)
    if not catalog.is_partitioned:
        msg = "the tables are not partitioned: `rwriter migrate --partitioned week` makes such tables on a new database"
        raise RwriterError(msg)
    return catalog


async def doomed(connection: AsyncConnection, schema: str | None) -> list[str]:
    """Return the tables, quoted, that a drop cut short has detached and not yet dropped."""
    parameters = {"requests": _names(connection, schema)["requests"], "comment": DOOMED}
    return list((await connection.execute(_DETACHED, parameters)).scalars())


def partitions_in(catalog: Catalog) -> list[Partition]:
    """Return the partitions, oldest first, each with both of its tables."""
    by_bounds: dict[tuple[uuid.UUID, uuid.UUID], list[Child]] = {}
    for child in catalog.children:
        if child.first is not None and child.end is not None:
            by_bounds.setdefault((child.first, child.end), []).append(child)
    return [_partition(first, end, by_bounds[first, end]) for first, end in sorted(by_bounds)]


async def faults(connection: AsyncConnection, schema: str | None) -> list[str]:
    """Return what is wrong with the partitions, a line each: nothing on plain tables."""
    catalog = await read(connection, schema)
    lines = [
        f"{name} is not partitioned" for name in PARTITIONED_TABLES if catalog.schemas and name not in catalog.schemas
    ]
    lines += [
        f"{' and '.join(each.tables)}: {_ADVICE[each.state]}"
        for each in partitions_in(catalog)
        if each.state in _ADVICE
    ]
    moment = datetime.now(UTC)
    if catalog.is_partitioned and not takes(catalog, first_id(moment)):
        lines.append(f"no partition takes ids of now, {moment:%Y-%m-%d}: run `rwriter partitions ensure`")
    return lines


def takes(catalog: Catalog, identity: uuid.UUID) -> bool:
    """Return True if both tables have a partition for ``identity``."""
    return catalog.has_default or any(first <= identity.int < end for first, end in ranges_of(catalog))


def period_of(catalog: Catalog) -> str | None:
    """Return ``week`` or ``day`` as the latest partition is long, its length in words otherwise, ``None`` for none."""
    found = partitions_in(catalog)
    if not found:
        return None
    step = found[-1].end - found[-1].start
    return next((name for name, length in PERIODS.items() if length == step), str(step))


def ranges_of(catalog: Catalog) -> list[tuple[int, int]]:
    """Return the ranges of ids, as numbers, that both tables have a partition for. Neighbours are joined."""
    joined: list[tuple[int, int]] = []
    for partition in by_ids(partitions_in(catalog)):
        if joined and joined[-1][1] == partition[0]:
            joined[-1] = (joined[-1][0], partition[1])
        else:
            joined.append(partition)
    return joined


def by_ids(found: Iterable[Partition]) -> list[tuple[int, int]]:
    """Return the bounds of those partitions that take rows."""
    return [(first_id(each.start).int, first_id(each.end).int) for each in found if each.state == "attached"]


def _partition(first: uuid.UUID, end: uuid.UUID, children: Sequence[Child]) -> Partition:
    whole = len(children) == len(PARTITIONED_TABLES)
    detaching = any(child.detaching for child in children)
    return Partition(
        start=made_at(first),
        end=made_at(end),
        rows=sum(child.rows for child in children if child.parent == "requests"),
        size=sum(child.size for child in children),
        state="detaching" if detaching else "attached" if whole else "incomplete",
        tables=tuple(child.name for child in children),
    )


def _child(row: Any) -> Child:
    bounds = _BOUNDS.search(row["bounds"] or "")
    options = dict(option.split("=", 1) for option in row["options"])
    toast = {f"toast.{name}": value for name, value in (option.split("=", 1) for option in row["toast_options"])}
    return Child(
        schema=row["schema"],
        parent=row["parent"],
        name=row["name"],
        first=None if bounds is None else uuid.UUID(bounds[1]),
        end=None if bounds is None else uuid.UUID(bounds[2]),
        detaching=row["detaching"],
        rows=row["rows"],
        size=row["size"],
        settings=options | toast,
    )


def quoted(connection: AsyncConnection, schema: str | None, name: str) -> str:
    """Return a table's name as SQL."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    return quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"


def _names(connection: AsyncConnection, schema: str | None) -> dict[str, str]:
    return {name: quoted(connection, schema, name) for name in PARTITIONED_TABLES}

"""The revision that the database is at, and whether this release can work with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter._database_errors import sqlstate_of
from rwriter.errors import SchemaOutdated
from rwriter.schema import HEAD_REVISION, VERSION_TABLE, metadata
from rwriter.store._connections import connected

_UNDEFINED_TABLE: Final = "42P01"
_UNDEFINED_COLUMN: Final = "42703"

# a service that lists rwriter's migrations in its own version_locations records them in its own table
_VERSION_TABLES: Final = tuple(
    Table(name, MetaData(), Column("version_num", String)) for name in (VERSION_TABLE, "alembic_version")
)


async def current_revision(engine: AsyncEngine) -> str | None:
    """Return rwriter's latest revision that a version table names, or ``None``."""
    return _latest(await _revisions(engine))


async def check_schema(engine: AsyncEngine) -> None:
    """Raise ``SchemaOutdated`` unless the database is at this release's revision, or at a later one."""
    found = await _revisions(engine)
    ours = _latest(found)
    if ours is None and found and await _has_every_column(engine):
        return
    if ours is None or ours < HEAD_REVISION:
        msg = (
            f"the database is at {ours or 'no revision of rwriter'}, this release needs "
            f"{HEAD_REVISION}: run `rwriter migrate` (or `alembic upgrade head`)"
        )
        raise SchemaOutdated(msg)


def _latest(revisions: Iterable[str]) -> str | None:
    return max((revision for revision in revisions if revision.startswith("rwriter_")), default=None)


async def _revisions(engine: AsyncEngine) -> list[str]:
    return [revision for table in _VERSION_TABLES for revision in await _revisions_in(engine, table)]


async def _revisions_in(engine: AsyncEngine, table: Table) -> list[str]:
    try:
        async with connected(engine) as connection:
            return list((await connection.execute(select(table.c.version_num))).scalars())
    except DBAPIError as exc:
        if sqlstate_of(exc) == _UNDEFINED_TABLE:
            return []
        raise


async def _has_every_column(engine: AsyncEngine) -> bool:
    # a service's revision that merges ours or depends on it takes its place in the service's version table
    try:
        async with connected(engine) as connection:
            for table in metadata.sorted_tables:
                await connection.execute(select(table).limit(0))
    except DBAPIError as exc:
        if sqlstate_of(exc) in {_UNDEFINED_TABLE, _UNDEFINED_COLUMN}:
            return False
        raise
    return True

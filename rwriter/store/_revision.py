"""The revision that the database is at, and whether this release can work with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import Column, MetaData, String, Table, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter._database_errors import sqlstate_of
from rwriter._values.escape import escape
from rwriter.engines import schema_of
from rwriter.errors import DatabaseRefused, SchemaOutdated
from rwriter.schema import HEAD_REVISION, VERSION_TABLE, metadata
from rwriter.store._connections import connected

_UNDEFINED_TABLE: Final = "42P01"
_NOT_ALLOWED: Final = "42501"

# a service that lists rwriter's migrations in its own version_locations records them in its own table
_SERVICES: Final = "alembic_version"

_NEEDED: Final = {
    VERSION_TABLE: ("SELECT",),
    "requests": ("SELECT", "INSERT", "UPDATE"),
    "request_templates": ("SELECT", "INSERT"),
    "dead_letters": ("SELECT", "INSERT"),
    "erasures": ("SELECT",),
    "ledger": ("SELECT", "INSERT"),
}
"""The privileges without which the writer cannot write. Deletions need DELETE, which many a service withholds."""

# names are resolved as in the statements: in the schema asked for, or by the search_path
_FOUND: Final = text(
    """
    SELECT t.name, CASE WHEN c.oid IS NOT NULL THEN format('%I.%I', nspname, relname) END AS found,
        current_user AS role, current_setting('search_path') AS path, current_setting('server_encoding') AS encoding,
        ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
            AS columns,
        ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) p WHERE has_any_column_privilege(c.oid, p))
            AS privileges
    FROM unnest(CAST(:names AS text[]), CAST(:resolved AS text[])) AS t (name, resolved)
    LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = relnamespace) ON c.oid = to_regclass(t.resolved)
    """
)


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a statement on the table ``name`` would find."""

    name: str
    found: str | None
    role: str
    path: str
    encoding: str
    columns: list[str]
    privileges: list[str]

    @property
    def lacks(self) -> list[str]:
        table = metadata.tables.get(self.name)
        return [] if table is None else [column.name for column in table.columns if column.name not in self.columns]

    @property
    def denied(self) -> list[str]:
        if self.found is None or self.lacks:
            return []  # not there, or not ours
        return [privilege for privilege in _NEEDED[self.name] if privilege not in self.privileges]


async def current_revision(engine: AsyncEngine) -> str | None:
    """Return rwriter's latest revision that a version table names, or ``None``.

    It is this release's where a service's own version table names a revision that took the place of ours, by a merge or
    by depending on it, and the tables are whole.
    """
    own, theirs = await _revisions_in(engine, VERSION_TABLE), await _services_revisions(engine)
    return _latest([*own, *theirs]) or await _replaced(engine, theirs)


async def revision_in_service(engine: AsyncEngine) -> str | None:
    """Return rwriter's revision in a service's own version table, or ``None`` where rwriter's own table names one."""
    # rwriter's own is read once, and last: an upgrade that is under way must not be taken for a service's
    theirs = await _services_revisions(engine)
    return None if await _revisions_in(engine, VERSION_TABLE) else await _replaced(engine, theirs)


async def _replaced(engine: AsyncEngine, theirs: list[str]) -> str | None:
    ours = _latest(theirs)
    if ours is not None or not theirs:
        return ours
    async with connected(engine) as connection:
        found = await _tables(connection, schema_of(engine))
    return None if any(table.lacks for table in found) else HEAD_REVISION


async def check_schema(engine: AsyncEngine) -> None:
    """Raise unless the tables that the statements will write to are there, whole and open to this role.

    ``SchemaOutdated``: below this release's revision, or a table or a column is missing. ``DatabaseRefused``: an
    encoding other than UTF8, or a privilege is missing.
    """
    async with connected(engine) as connection:
        tables = await _tables(connection, schema_of(engine))
    refusal = encoding_refusal(tables[0].encoding)
    if refusal is not None:
        raise DatabaseRefused(refusal)
    _check_privileges(tables)
    _check(tables, [*await _revisions_in(engine, VERSION_TABLE), *await _services_revisions(engine)])


def encoding_refusal(encoding: str | None) -> str | None:
    """Return why a database of this encoding is not written to, or ``None`` where it is."""
    if encoding == "UTF8":
        return None
    return (
        f"the database's encoding is {encoding}, not UTF8, so that it cannot hold every text: make another one with "
        "CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'"
    )


def _check(tables: list[_Found], revisions: list[str]) -> None:
    ours = _latest(revisions)
    broken = [table for table in tables if table.lacks]
    # a service's revision that merges ours or depends on it takes its place in the service's version table
    merged = ours is None and revisions and not broken
    if (ours is None or ours < HEAD_REVISION) and not merged:
        msg = (
            f"the database is at {escape(ours or 'no revision of rwriter')}, this release needs "
            f"{HEAD_REVISION}: run `rwriter migrate` (or `alembic upgrade head`)"
        )
        raise SchemaOutdated(msg)
    if broken:
        first = f"the version table says {escape(str(ours))}, but the tables do not:"
        raise SchemaOutdated("\n".join([first, *_damage(broken)]))


def _damage(broken: Iterable[_Found]) -> list[str]:
    lines = []
    for table in broken:
        if table.found is None:
            lines.append(
                f"  there is no table {table.name} (search_path {escape(table.path)}): if it was stamped without being "
                f"migrated, delete the row of {VERSION_TABLE}, then run `rwriter migrate`"
            )
        else:
            lines.append(
                f"  {table.name} is {escape(table.found)} (search_path {escape(table.path)}), "
                f"which lacks {', '.join(table.lacks)}: if "
                "it is another program's, name the schema of rwriter's tables (schema=..., RWRITER_SCHEMA)"
            )
    return lines


def _check_privileges(tables: Iterable[_Found]) -> None:
    denied = [table for table in tables if table.denied]
    if denied:
        grants = [escape(f'GRANT {", ".join(table.denied)} ON {table.found} TO "{table.role}"') for table in denied]
        raise DatabaseRefused(f"this role may not use rwriter's tables: have the tables' owner run {'; '.join(grants)}")


def _latest(revisions: Iterable[str]) -> str | None:
    return max((revision for revision in revisions if revision.startswith("rwriter_")), default=None)


async def _tables(connection: AsyncConnection, schema: str | None) -> list[_Found]:
    quote = connection.dialect.identifier_preparer.quote_identifier
    names = list(_NEEDED)
    resolved = [quote(name) if schema is None else f"{quote(schema)}.{quote(name)}" for name in names]
    found = await connection.execute(_FOUND, {"names": names, "resolved": resolved})
    return [_Found(**row) for row in found.mappings()]


async def _services_revisions(engine: AsyncEngine) -> list[str]:
    try:
        return await _revisions_in(engine, _SERVICES)
    except DBAPIError as exc:
        if sqlstate_of(exc) != _NOT_ALLOWED:
            raise
        # another service's, perhaps
        return []


async def _revisions_in(engine: AsyncEngine, name: str) -> list[str]:
    table = Table(name, MetaData(), Column("version_num", String))
    try:
        async with connected(engine) as connection:
            return list((await connection.execute(select(table.c.version_num))).scalars())
    except DBAPIError as exc:
        if sqlstate_of(exc) == _UNDEFINED_TABLE:
            return []
        raise

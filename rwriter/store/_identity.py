"""The identity of the database, which a spool is stamped with."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from rwriter._database_errors import sqlstate_of
from rwriter.engines import schema_of
from rwriter.store._connections import Connections

_REFUSED: Final = ("42501", "42883", "0A000")
_DATABASE: Final = "SELECT oid::text FROM pg_database WHERE datname = current_database()"

# the same for a standby that was promoted, and through whatever pooler
_IDENTITY: Final = text(f"SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' || ({_DATABASE})")  # noqa: S608 -- our own words
_IDENTITY_WITHOUT_CLUSTER: Final = text(f"SELECT current_database() || '/' || ({_DATABASE})")


async def identity(connections: Connections) -> str:
    """Return a text that tells this database, and the schema of the tables, from any other."""
    try:
        found = await _asked(connections, cluster=True)
    except DBAPIError as exc:
        if sqlstate_of(exc) not in _REFUSED:
            raise
        # a provider that keeps the cluster's own facts to itself
        found = await _asked(connections, cluster=False)
    schema = schema_of(connections.write)
    return found if schema is None else f"{found}/{schema}"


async def _asked(connections: Connections, *, cluster: bool) -> str:
    async with connections.query(consistent=True) as connection:
        statement = _IDENTITY if cluster else _IDENTITY_WITHOUT_CLUSTER
        return str((await connection.execute(statement)).scalar_one())

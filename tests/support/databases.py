"""Migrated databases that are used again once a test has left nothing in them but rows.

A clone costs some three hundred files; emptying the tables that a test wrote to costs about ten. The server's own
counters tell whether rows are all there was: a statement that makes, alters or analyses anything writes to a catalog.
A database in which it did, or in which somebody still is, goes as before: it is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, Literal

import asyncpg

from rwriter.pytest_plugin import Databases

Variant = tuple[str | None, Literal["week", "day"] | None]

LEAVING_TIMEOUT: Final = 0.5
"""Seconds that the connections of a test may take to end: its engines do not wait for the server to notice."""

OTHERS: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

WRITTEN: Final = """
    SELECT c.oid::regclass::text AS name, n.nspname = 'pg_catalog' OR c.relname LIKE '%alembic_version' AS is_fixed
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND NOT c.relisshared
    AND pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) > 0
"""

# no catalog of this database holds them
SETTINGS: Final = """
    SELECT EXISTS (SELECT 1 FROM pg_db_role_setting WHERE setdatabase = d.oid) OR NOT datallowconn OR datconnlimit <> -1
    FROM pg_database d WHERE datname = current_database()
"""

# a crash takes the counters back to nothing, and says when
COUNTED_SINCE: Final = "SELECT stats_reset FROM pg_stat_bgwriter"


class CleanDatabases:
    """Lends databases as `Databases` clones them, with empty tables, and takes back those that can be lent again."""

    def __init__(self, databases: Databases, server_url: str) -> None:
        self._databases = databases
        self._clean: dict[Variant, list[str]] = {}
        self._counted_since = _run_for(_ask(server_url, COUNTED_SINCE))

    @contextlib.contextmanager
    def lent(self, schema: str | None = None, partitioned: Literal["week", "day"] | None = None) -> Iterator[str]:
        """Yield the URL of a database migrated to head in ``schema`` that nobody else uses."""
        clean = self._clean.setdefault((schema, partitioned), [])
        name = clean.pop() if clean else self._databases.create(self._databases.template(schema, partitioned))
        yield self._databases.url(name)
        if self._is_cleaned(name):
            clean.append(name)
        else:
            self._databases.drop(name)

    def close(self) -> None:
        """Drop the databases that nobody uses."""
        for name in chain.from_iterable(self._clean.values()):
            self._databases.drop(name)
        self._clean.clear()

    def _is_cleaned(self, name: str) -> bool:
        # whatever is wrong with this one, the next test gets another
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return bool(_run_for(self._clean_up(name)))
        return False

    async def _clean_up(self, name: str) -> bool:
        """Empty the tables and return True; return False where a test has changed, or still uses, more than rows."""
        connection = await asyncpg.connect(self._databases.url(name))
        try:
            if not await _is_alone(connection) or await connection.fetchval(SETTINGS):
                return False
            if await connection.fetchval(COUNTED_SINCE) != self._counted_since:
                return False
            written = await connection.fetch(WRITTEN)
            if any(table["is_fixed"] for table in written):
                return False
            await _empty(connection, [table["name"] for table in written])
        finally:
            await connection.close()
        return True


async def _is_alone(connection: asyncpg.Connection) -> bool:
    """Wait for the connections of a test to end; return False where one does not."""
    deadline = time.monotonic() + LEAVING_TIMEOUT
    while await connection.fetchval(OTHERS):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


async def _empty(connection: asyncpg.Connection, tables: list[str]) -> None:
    if tables:
        # the foreign key of plain tables has both emptied
        await connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
    # what this wrote to the catalogs is counted before everything is counted from nothing
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT pg_stat_reset()")


async def _ask(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def _run_for(work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work`` on a thread of its own, as this one may run the test's loop; return its result."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()

"""Partitions dropped beside a writer that goes on: detached one at a time, then dropped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter._chain.table import is_kept, say_removed
from rwriter._validation import aware, positive
from rwriter.engines import EngineProvider
from rwriter.errors import RwriterError
from rwriter.partitions._catalog import (
    DOOMED,
    Catalog,
    Child,
    Partition,
    doomed,
    engine_of,
    partitioned,
    partitions_in,
    quoted,
)
from rwriter.schema import first_id

PATIENCE: Final = 60.0

_TURN: Final = 7_220_514_906_331_187_203


async def drop(
    engines: EngineProvider | AsyncEngine,
    before: datetime,
    *,
    patience: float = PATIENCE,
    schema: str | None = None,
    why: Literal["purged", "archived"] = "purged",
) -> list[Partition]:
    """Drop the partitions whose last id was made before ``before``, oldest first, and return them.

    Every row in them goes, of whatever state and owner. The partition of now is never dropped. A partition is detached
    CONCURRENTLY, which waits for the transactions that use the tables, and lets writers and readers go on; where that
    was cut short, by a crash or after ``patience`` seconds, the next call completes it first. The role must own the
    tables; PostgreSQL 14 or later. Where there is a ledger, an entry says ``why`` the rows with these ids are gone.

    Raises ``RwriterError`` where the tables are not partitioned, where another call is at work, where a partition could
    not be detached within ``patience`` seconds, and where a default partition stands in the way.
    """
    aware("before", before)
    positive("patience", patience)
    engine, name = engine_of(engines, schema)
    async with turn(engine), engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await complete(connection, await partitioned(connection, name), patience)
        for table in await doomed(connection, name):
            await connection.exec_driver_sql(f"DROP TABLE {table}")
        catalog = await partitioned(connection, name)
        old = [each for each in partitions_in(catalog) if each.end <= min(before, datetime.now(UTC))]
        if old and catalog.has_default:
            raise RwriterError("a default partition keeps others from being detached beside writers: detach it first")
        for each in old:
            await say_dropped(connection, each, why)
            await _drop(connection, catalog, each, patience)
    return old


async def say_dropped(connection: AsyncConnection, partition: Partition, why: Literal["purged", "archived"]) -> None:
    """Write the entry of a partition's range of ids. Before the drop: until that is complete the rows speak for it."""
    if await is_kept(connection):
        first, below = first_id(partition.start), first_id(partition.end)
        bounds = {"from": str(first), "below": str(below)}
        await say_removed(connection, why, (), **bounds)


async def complete(connection: AsyncConnection, catalog: Catalog, patience: float) -> None:
    """Complete what was cut short: a table has at most one partition that is being detached."""
    for child in catalog.children:
        if child.detaching:
            await detach(connection, child, "FINALIZE", patience)


async def _drop(connection: AsyncConnection, catalog: Catalog, partition: Partition, patience: float) -> None:
    # requests first: a template without a request is seen by nobody
    for child in sorted(catalog.children, key=lambda child: child.parent, reverse=True):
        if child.name in partition.tables:
            table = quoted(connection, child.schema, child.name)
            # said before, so that a crash leaves no table that nobody will drop
            await connection.exec_driver_sql(f"COMMENT ON TABLE {table} IS '{DOOMED}'")
            await detach(connection, child, "CONCURRENTLY", patience)
            await connection.exec_driver_sql(f"DROP TABLE {table}")


async def detach(connection: AsyncConnection, child: Child, how: str, patience: float) -> None:
    """Detach one table from its parent. Raises ``RwriterError`` after ``patience`` seconds; the next call goes on."""
    whole, part = quoted(connection, child.schema, child.parent), quoted(connection, child.schema, child.name)
    try:
        async with asyncio.timeout(patience):
            await connection.exec_driver_sql(f"ALTER TABLE {whole} DETACH PARTITION {part} {how}")
    except TimeoutError as exc:
        msg = (
            f"{child.name} could not be detached within {patience:g} s: a transaction has been using the tables for as "
            "long (in pg_stat_activity perhaps 'idle in transaction'). End it, and drop again to complete this"
        )
        raise RwriterError(msg) from exc


@contextlib.asynccontextmanager
async def turn(engine: AsyncEngine) -> AsyncIterator[None]:
    """Hold an advisory lock for the whole call.

    On a connection and in a transaction of its own: a session behind a pooler may be another's next. It has no lock on
    a table, and no snapshot, that a detach would wait for.
    """
    async with engine.begin() as connection:
        if not (await connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_TURN})")).scalar_one():
            raise RwriterError("another process is dropping partitions of this database")
        # last: the snapshot of a query is held until the session's next statement, and FINALIZE waits for it
        await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield

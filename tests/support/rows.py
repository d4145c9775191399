"""Insert rows as other programs do, and read rows back with plain SQL."""

from __future__ import annotations

import os
import shutil
import uuid
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import RowMapping, Table, Text, func, insert, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import PersistResult, new_request_id
from rwriter.schema import NIL_DAEMON, request_templates, requests
from tests.support.records import STARTED


class Counts:
    """Equals a ``PersistResult`` with these counts that names as many written rows as it counts."""

    def __init__(self, inserted: int, updated: int, skipped: int) -> None:
        self.counts = (inserted, updated, skipped)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PersistResult):
            return NotImplemented
        written = self.counts[0] + self.counts[1]
        return (other.inserted, other.updated, other.skipped) == self.counts and len(other.written) == written

    __hash__ = None  # type: ignore[assignment]  # as of every class that compares by value

    def __repr__(self) -> str:
        return "Counts(inserted={}, updated={}, skipped={})".format(*self.counts)


async def insert_request(engine: AsyncEngine, **columns: Any) -> uuid.UUID:
    """A row as another program would leave it: ``pending`` of tier ``flex`` unless ``columns`` say otherwise."""
    row: dict[str, Any] = {
        "id": new_request_id(),
        "model": "daemon-model",
        "service_tier": "flex",
        "created_by": None if "batch_id" in columns else "tenant-d",
    }
    row |= columns
    async with engine.begin() as connection:
        await connection.execute(insert(requests).values(row))
    identity: uuid.UUID = row["id"]
    return identity


def in_state(state: str, **columns: Any) -> dict[str, Any]:
    """The columns that the table's checks ask of a row in ``state``."""
    claimed = {"daemon_id": NIL_DAEMON, "claimed_at": STARTED}
    needed: dict[str, dict[str, Any]] = {
        "pending": {},
        "claimed": claimed,
        "processing": claimed | {"started_at": STARTED},
        "completed": {"response_status": 200, "response_body": "first", "completed_at": STARTED},
        "failed": {"error": "first", "failed_at": STARTED},
        "canceled": {"canceled_at": STARTED},
    }
    return {"state": state} | needed[state] | columns


async def rows(engine: AsyncEngine, table: Table, *ids: uuid.UUID) -> list[RowMapping]:
    """Rows of ``table`` in id order, all or those with ``ids``; ``xmin`` is the transaction that wrote each."""
    xmin = literal_column(f"{table.name}.xmin::text", Text()).label("xmin")
    query = select(table, xmin).order_by(table.c.id)
    if ids:
        query = query.where(table.c.id.in_(ids))
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings())


async def one(engine: AsyncEngine, table: Table, *ids: uuid.UUID) -> RowMapping:
    """The only row of ``table``, or the only one with ``ids``; another number of them fails the test."""
    (row,) = await rows(engine, table, *ids)
    return row


async def template_of(engine: AsyncEngine, request_id: uuid.UUID) -> RowMapping:
    """The template that the row ``request_id`` points to; its absence fails the test."""
    template_id = (await one(engine, requests, request_id))["template_id"]
    assert template_id is not None
    return await one(engine, request_templates, template_id)


async def template_ids(engine: AsyncEngine) -> set[uuid.UUID]:
    """The ids of all templates."""
    return {row["id"] for row in await rows(engine, request_templates)}


async def snapshot(engine: AsyncEngine) -> list[list[RowMapping]]:
    """Both tables with every column and ``xmin``: two of them are equal if nothing was written in between."""
    return [await rows(engine, table) for table in (requests, request_templates)]


async def sessions(engine: AsyncEngine, application_name: str) -> int:
    """Return the number of open sessions of that name in this database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
    async with engine.connect() as connection:
        count: int = (await connection.execute(text(query), {"name": application_name})).scalar_one()
    return count


async def lock_waits(engine: AsyncEngine, query: str = "") -> bool:
    """Return True if a session of this database waits for a lock, in a statement that begins with ``query``."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND starts_with(query, :query)"
    )
    async with engine.connect() as connection:
        count: int = (await connection.execute(statement, {"query": query})).scalar_one()
    return count > 0


async def run_sql(engine: AsyncEngine, statement: str) -> list[Any]:
    """Return the server's answer to one statement, if it is one that answers."""
    async with engine.begin() as connection:
        result = await connection.execute(text(statement))
        return list(result.all()) if result.returns_rows else []


def quoted(schema: str | None) -> str:
    """``schema`` for SQL written by hand; ``None`` is ``public``, the first of the search_path."""
    return '"' + (schema or "public").replace('"', '""') + '"'


def need(binary: str) -> str:
    """The path of a program this test cannot do without: skip where it is missing, but fail in CI."""
    path = shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        message = f"{binary} is not installed: apt-get install {binary}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


async def now_of(engine: AsyncEngine) -> datetime:
    """Return the server's time."""
    async with engine.connect() as connection:
        now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now

"""Partitions made ahead: which, like which, and beside writers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore, RwriterError, migrate
from rwriter.partitions import AHEAD, drop, ensure, listing, variant
from rwriter.schema import request_templates, requests
from tests.support.migrations import engine_on
from tests.support.records import id_at, record
from tests.support.rows import Counts

WEEK = timedelta(weeks=1)

LIKE_THE_OTHERS = text(
    """
    SELECT c.relname::text, c.reloptions, toast.reloptions AS toast,
        ARRAY(SELECT tgname::text FROM pg_trigger WHERE tgrelid = c.oid) AS triggers,
        ARRAY(SELECT conname::text FROM pg_constraint WHERE conrelid = c.oid AND contype = 'c' ORDER BY 1) AS checks,
        ARRAY(SELECT attcompression::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum)
            AS compression,
        ARRAY(SELECT inhparent::regclass::text FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid
            WHERE indrelid = c.oid AND indisvalid ORDER BY 1) AS indexes
    FROM pg_class c LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
    WHERE c.relispartition AND c.relkind = 'r' ORDER BY c.relname
    """
)


async def test_what_is_missing_ahead_is_made_once_and_each_begins_where_the_last_one_ends(engine: AsyncEngine) -> None:
    before = await listing(engine)
    assert await ensure(engine) == []
    made = await ensure(engine, ahead=timedelta(weeks=8))
    assert [each.start for each in made] == [before[-1].end + n * WEEK for n in range(len(made))]
    assert made[-1].start <= datetime.now(UTC) + timedelta(weeks=8) < made[-1].end
    assert await listing(engine) == [*before, *made]
    assert {each.state for each in made} == {"attached"}
    assert await ensure(engine, ahead=timedelta(weeks=8)) == []


@pytest.mark.both_schemas("ensure", "drop", "listing")
async def test_a_partition_made_later_is_like_those_of_the_migration(
    engine: AsyncEngine, store: RequestStore, database: str, schema: str | None
) -> None:
    now = datetime.now(UTC)
    made = await ensure(engine, since=now - 3 * WEEK, ahead=5 * WEEK)
    assert len(made) == 3
    await migrate.check(database, schema=schema)
    async with engine.connect() as connection:
        found = (await connection.execute(LIKE_THE_OTHERS)).all()
    for table, declared in (("requests_2", requests), ("request_templates_2", request_templates)):
        indexes = len(declared.indexes) + 1  # the primary key's
        kinds = {str(row[1:]) for row in found if row[0].startswith(table)}
        assert len(kinds) == 1, kinds
        assert {len(row.indexes) for row in found if row[0].startswith(table)} == {indexes}

    old = record(request_id=id_at(now - 2 * WEEK))
    assert await store.persist_completed([old]) == Counts(1, 0, 0)
    assert await store.get_request(old.request_id) is not None
    assert len(await drop(engine, now - WEEK)) == 2
    assert await store.get_request(old.request_id) is None


@pytest.mark.parametrize("partitioned", ["day"], indirect=True)
async def test_tables_of_days_get_days(engine: AsyncEngine) -> None:
    before = await listing(engine)
    made = await ensure(engine, ahead=AHEAD + timedelta(days=3))
    assert [(each.start, each.end - each.start) for each in made] == [
        (before[-1].end + timedelta(days=n), timedelta(days=1)) for n in range(3)
    ]
    assert await variant(engine) == "day"


async def test_processes_that_make_the_same_partitions_at_once_make_each_once(engine: AsyncEngine) -> None:
    made = await asyncio.gather(*(ensure(engine, ahead=timedelta(weeks=12)) for _ in range(4)))
    assert sum(map(bool, made)) == 1
    starts = [each.start for each in await listing(engine)]
    assert len(starts) == len(set(starts))


async def test_a_transaction_that_writes_holds_nothing_up_and_is_not_held_up(
    engine: AsyncEngine, store: RequestStore
) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO requests (model, created_by) VALUES ('m', 'me')"))
        assert await ensure(engine, ahead=timedelta(weeks=6))
        assert await store.persist_completed([record()]) == Counts(1, 0, 0)
        await connection.commit()


async def test_the_half_of_a_partition_is_completed(engine: AsyncEngine, database: str) -> None:
    latest = (await listing(engine))[-1]
    async with engine.begin() as connection:
        await connection.execute(text(f"DROP TABLE request_templates_{latest.start:%Y%m%d}"))
    assert (await listing(engine))[-1].state == "incomplete"
    (made,) = await ensure(engine)
    assert (made.start, made.state) == (latest.start, "attached")
    await migrate.check(database)


@pytest.mark.parametrize("call", [ensure, listing, lambda engine: drop(engine, datetime.now(UTC))])
async def test_plain_tables_have_no_partitions(empty_database: str, call: Any) -> None:
    await migrate.upgrade(empty_database)
    async with engine_on(empty_database) as plain:
        with pytest.raises(RwriterError, match="the tables are not partitioned: `rwriter migrate --partitioned week`"):
            await call(plain)
        assert await variant(plain) == "plain"


@pytest.mark.parametrize(
    ("asked", "named"),
    [({"ahead": timedelta(days=-1)}, "ahead must be at least 0"), ({"since": datetime(2026, 1, 1)}, "since")],  # noqa: DTZ001 -- the value refused
)
async def test_values_that_make_no_sense_are_refused(engine: AsyncEngine, asked: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        await ensure(engine, **asked)

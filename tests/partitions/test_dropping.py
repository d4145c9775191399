"""Partitions dropped: whole ones of the past alone, beside transactions, and to the end after a crash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore, RwriterError
from rwriter.partitions import _dropping, drop, listing
from rwriter.partitions._catalog import DOOMED
from rwriter.schema import requests
from tests.support.records import id_at, record
from tests.support.rows import Counts, rows, template_ids

TABLES = text("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'request%\\_2%' ORDER BY 1")


async def tables(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.execute(TABLES)).scalars())


def names_of(found: Any) -> list[str]:
    return sorted(name for each in found for name in each.tables)


async def test_whole_partitions_of_the_past_go_with_their_rows_and_templates(
    engine: AsyncEngine, store: RequestStore, weeks_ago: datetime
) -> None:
    old = [record(request_id=id_at(weeks_ago)) for _ in range(3)]
    new = [record() for _ in range(2)]
    await store.persist_completed([*old, *new])
    before = await listing(engine)

    dropped = await drop(engine, weeks_ago + timedelta(weeks=1))

    assert [each.end <= weeks_ago + timedelta(weeks=1) for each in before] == [each in dropped for each in before]
    assert await listing(engine) == [each for each in before if each not in dropped]
    assert {row["id"] for row in await rows(engine, requests)} == {each.request_id for each in new}
    assert set(await template_ids(engine)) == {each.request_id for each in new}
    assert await tables(engine) == names_of(await listing(engine))


async def test_the_partition_of_now_and_those_ahead_stay(engine: AsyncEngine, store: RequestStore) -> None:
    now = datetime.now(UTC)
    await drop(engine, now + timedelta(days=3650))
    assert (await listing(engine))[0].start <= now < (await listing(engine))[0].end
    assert await store.persist_completed([record()]) == Counts(1, 0, 0)


async def test_a_transaction_in_the_way_is_waited_for_and_what_was_cut_short_is_completed_later(
    engine: AsyncEngine, store: RequestStore, weeks_ago: datetime
) -> None:
    old = record(request_id=id_at(weeks_ago - timedelta(weeks=1)))
    await store.persist_completed([old])
    async with engine.connect() as connection:
        await connection.execute(text("SELECT count(*) FROM requests"))
        with pytest.raises(RwriterError, match=r"could not be detached within 0\.5 s: a transaction has been using"):
            await drop(engine, datetime.now(UTC), patience=0.5)
        # writers and readers go on, without the rows that are to go
        assert await store.persist_completed([record()]) == Counts(1, 0, 0)
        assert await store.get_request(old.request_id) is None
        assert [each.state for each in await listing(engine)].count("detaching") == 1
    await drop(engine, datetime.now(UTC))
    assert {each.state for each in await listing(engine)} == {"attached"}
    assert await tables(engine) == names_of(await listing(engine))


async def test_a_partition_that_was_detached_before_a_crash_is_dropped_and_somebody_elses_stays(
    engine: AsyncEngine, weeks_ago: datetime
) -> None:
    first, second, *_ = await listing(engine)
    async with engine.begin() as connection:
        for table, partition in (("requests", first), ("request_templates", second)):
            name = f"{table}_{partition.start:%Y%m%d}"
            if partition is first:
                await connection.execute(text(f"COMMENT ON TABLE {name} IS '{DOOMED}'"))
            await connection.execute(text(f"ALTER TABLE {table} DETACH PARTITION {name}"))
    await drop(engine, weeks_ago)
    assert await tables(engine) == sorted(
        [*names_of(await listing(engine)), f"request_templates_{second.start:%Y%m%d}"]
    )
    assert first.start not in {each.start for each in await listing(engine)}


async def test_two_processes_do_not_drop_at_once(engine: AsyncEngine, weeks_ago: datetime) -> None:
    before = await listing(engine)
    async with engine.begin() as connection:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_dropping._TURN})"))
        with pytest.raises(RwriterError, match="another process is dropping partitions"):
            await drop(engine, weeks_ago)
    assert await listing(engine) == before


async def test_a_default_partition_is_not_dropped_and_stands_in_the_way(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE theirs PARTITION OF requests DEFAULT"))
    before = await listing(engine)
    with pytest.raises(RwriterError, match="a default partition keeps others from being detached"):
        await drop(engine, datetime.now(UTC))
    assert await listing(engine) == before


@pytest.mark.parametrize(
    ("before", "asked", "named"),
    [(datetime(2026, 1, 1), {}, "before"), (datetime(2026, 1, 1, tzinfo=UTC), {"patience": 0}, "patience")],  # noqa: DTZ001 -- the value refused
)
async def test_values_that_make_no_sense_are_refused(
    engine: AsyncEngine, before: datetime, asked: Any, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        await drop(engine, before, **asked)

"""Ids that no partition takes: refused where they are sent, and a dead letter where they are not."""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select, text

from rwriter import IdRefused, RecordRejected, RequestsWriter, Spool
from rwriter.partitions import _bounds, ensure
from rwriter.schema import dead_letters
from rwriter.testing import TestDbEngines
from tests.support.fates import ids, stored
from tests.support.faults import proxy_to
from tests.support.fixtures import unpooled
from tests.support.records import id_at, record

NOW = datetime.now(UTC)
LONG_AGO, FAR_AHEAD = NOW - timedelta(days=900), NOW + timedelta(days=900)

OUTSIDE = [uuid.uuid4(), uuid.uuid1(), uuid.UUID(int=0), id_at(LONG_AGO), id_at(FAR_AHEAD)]


@pytest.mark.parametrize("identity", OUTSIDE, ids=["v4", "v1", "nil", "long ago", "far ahead"])
async def test_an_id_that_no_partition_takes_is_refused_where_it_is_sent(
    rwriter_engines: TestDbEngines, identity: uuid.UUID
) -> None:
    kept = record()
    async with RequestsWriter(rwriter_engines) as writer:
        with pytest.raises(IdRefused, match=rf"{identity} is in none of the partitions.*rwriter partitions ensure"):
            await writer.send(record(request_id=identity))
        with pytest.raises(IdRefused, match=rf"{identity} is in none"):
            writer.send_nowait(record(request_id=identity))
        await writer.send(kept, wait="committed")
        assert (writer.stats.accepted, writer.stats.persisted) == (1, 1)
    assert await stored(rwriter_engines) == ids([kept])


async def test_a_journal_takes_no_id_that_no_partition_takes(
    rwriter_engines: TestDbEngines, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"))
    async with RequestsWriter(rwriter_engines, spool=spool, durability="journal") as writer:
        with pytest.raises(IdRefused):
            await writer.send(record(request_id=uuid.uuid4()))
        assert await spool.count() == 0


async def test_partitions_made_while_the_writer_runs_are_found_by_the_first_id_that_needs_them(
    rwriter_engines: TestDbEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = [record(request_id=id_at(NOW - timedelta(weeks=5))) for _ in range(2)]
    async with RequestsWriter(rwriter_engines) as writer:
        await ensure(rwriter_engines, since=NOW - timedelta(weeks=5))
        with pytest.raises(IdRefused):
            await writer.send(early[0])
        monkeypatch.setattr(_bounds, "FRESH", 0.0)
        for each in early:
            await writer.send(each)
    assert await stored(rwriter_engines) == ids(early)


async def test_the_partitions_are_asked_for_once_however_many_ids_are_outside(
    rwriter_engines: TestDbEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    async with RequestsWriter(rwriter_engines) as writer:
        monkeypatch.setattr(_bounds, "FRESH", 3_600.0)
        writer._bounds._read_at -= 3_600.0

        def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            nonlocal asked
            asked += "pg_partitioned_table" in statement

        event.listen(rwriter_engines.write.sync_engine, "before_cursor_execute", count)
        for _ in range(20):
            with pytest.raises(IdRefused):
                await writer.send(record(request_id=id_at(LONG_AGO)))
    assert asked == 1


async def test_while_the_database_is_away_no_id_of_a_time_is_refused_that_it_might_take(
    rwriter_database: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bounds, "FRESH", 0.0)
    async with proxy_to(rwriter_database) as proxy:
        engine = unpooled(proxy.url(rwriter_database), driver)
        bounds = _bounds.IdBounds(engine)
        await bounds.learn()
        proxy.cut()
        await bounds.check(id_at(FAR_AHEAD))
        with pytest.raises(IdRefused):
            await bounds.check(uuid.uuid4())
        proxy.heal()
        with pytest.raises(IdRefused):
            await bounds.check(id_at(FAR_AHEAD))


async def test_a_record_that_slips_through_is_a_dead_letter_and_the_others_are_stored(
    rwriter_engines: TestDbEngines,
) -> None:
    good, outside = [record() for _ in range(5)], record(request_id=id_at(FAR_AHEAD))
    # without the check at start the writer knows of no partitions
    async with RequestsWriter(rwriter_engines, check_schema=False) as writer:
        for each in (*good[:3], outside, *good[3:]):
            await writer.send(each)
        with pytest.raises(RecordRejected):
            await writer.send(record(request_id=uuid.uuid4()), wait="committed")
    assert await stored(rwriter_engines) == ids(good)
    async with rwriter_engines.write.connect() as connection:
        letters = (await connection.execute(select(dead_letters.c.sqlstate, dead_letters.c.request_id))).all()
    assert {letter.sqlstate for letter in letters} == {"23514"}
    assert outside.request_id in {letter.request_id for letter in letters}


async def test_a_writer_that_finds_no_partition_for_now_says_so_and_opens(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    async with rwriter_engines.write.begin() as connection:
        for table in ("requests", "request_templates"):
            week = NOW - timedelta(days=NOW.weekday())
            await connection.execute(text(f"DROP TABLE {table}_{week:%Y%m%d}"))
    with caplog.at_level(logging.ERROR, "rwriter"):
        async with RequestsWriter(rwriter_engines) as writer:
            assert "no partition takes ids of now" in caplog.text
            with pytest.raises(IdRefused):
                await writer.send(record())

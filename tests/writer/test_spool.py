"""The writer with a spool: an outage costs no record, and neither does ``kill -9`` of a journaling writer."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RecordSpooled, RequestsWriter, Spool, SpoolFull, WriterStats
from rwriter.testing import TestDbEngines
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord
from tests.support.driving import eventually
from tests.support.fates import balanced, ids, letters, stored
from tests.support.faults import refuse_bad_bodies, table_locked, through_a_proxy
from tests.support.records import record


def spooling(engine: AsyncEngine | TestDbEngines, folder: Path, **options: object) -> RequestsWriter:
    """A writer that is quick to give up and quick to replay."""
    chosen: dict[str, object] = {
        "max_retries": 1,
        "retry_base_delay": 0.001,
        "retry_max_delay": 0.02,
        "replay_interval": 0.05,
        "spool": Spool(folder),
    }
    return RequestsWriter(engine, **(chosen | options))  # type: ignore[arg-type]


def all_spooled(stats: WriterStats) -> bool:
    return stats.spooled == stats.accepted


async def test_an_outage_goes_to_disk_and_comes_back(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    sent = [record() for _ in range(500)]
    async with through_a_proxy(rwriter_database) as (proxy, engine), spooling(engine, tmp_path) as writer:
        proxy.cut()
        for item in sent:
            await writer.send(item)
        await writer.flush(timeout=60)
        assert all_spooled(writer.stats)
        proxy.heal()
        await eventually(lambda: writer.stats.replayed == 500)
        assert balanced(writer.stats)
        # live again: straight to the database
        late = record()
        await writer.send(late, wait="committed")
    assert await stored(rwriter_engines) == {*ids(sent), late.request_id}
    assert (writer.stats.persisted, writer.stats.spooled, writer.stats.dropped) == (1, 500, 0)


async def test_the_replay_wakes_for_records_that_were_kept_and_not_at_its_interval_alone(
    rwriter_database: str, tmp_path: Path
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with spooling(engine, tmp_path, replay_interval=3_600) as writer:
            await writer.send(record(), wait="committed")
            proxy.cut()
            await writer.send(record())
            await writer.flush(timeout=60)
            assert writer.stats.spooled == 1
            proxy.heal()
            await eventually(lambda: writer.stats.replayed == 1)


async def test_records_that_found_no_room_do_not_wake_the_replay(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=200_000)
    await spool.open()
    overflow = Overflow(spool)
    large, small = (PendingRecord(record(response_body="x" * size), size, 0, 0.0) for size in (300_000, 10))
    lost, error = await overflow.keep([large])
    assert lost == [large]
    assert isinstance(error, SpoolFull)
    assert not overflow.kept.is_set()
    assert await overflow.keep([small]) == ([], None)
    assert overflow.kept.is_set()
    await spool.aclose()


async def test_while_the_database_is_away_batches_are_not_tried_one_by_one(
    rwriter_database: str, tmp_path: Path
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with spooling(
            engine, tmp_path, batch_size=1, flush_concurrency=1, retry_base_delay=30, retry_max_delay=30, max_retries=0
        ) as writer:
            proxy.cut()
            before = proxy.connections
            for _ in range(200):
                await writer.send(record())
            await writer.flush(timeout=60)
            assert writer.stats.spooled == 200
            # the first batch and a probe or two, each up to thirty seconds after the one before
            assert proxy.connections - before < 20


async def test_a_committed_wait_hears_that_its_record_is_on_disk(rwriter_database: str, tmp_path: Path) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine), spooling(engine, tmp_path) as writer:
        proxy.cut()
        with pytest.raises(RecordSpooled):
            await writer.send(record(), wait="committed")


async def test_what_a_deadline_leaves_is_spooled_and_stored_by_the_next_writer(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    sent = [record() for _ in range(30)]
    async with table_locked(rwriter_engines):
        writer = spooling(rwriter_engines, tmp_path, check_schema=False, batch_size=10, drain_timeout=0.05)
        async with writer:
            for item in sent:
                await writer.send(item)
    assert all_spooled(writer.stats)
    async with spooling(rwriter_engines, tmp_path) as after:
        await eventually(lambda: after.stats.replayed == 30)
    assert await stored(rwriter_engines) == ids(sent)


async def test_of_what_a_deadline_leaves_a_nearly_full_spool_takes_what_it_can(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    async with table_locked(rwriter_engines):
        spool = Spool(tmp_path, max_bytes=200_000)
        writer = spooling(rwriter_engines, tmp_path, spool=spool, check_schema=False, batch_size=1, drain_timeout=0.05)
        async with writer:
            for _ in range(10):
                await writer.send(record(response_body="x" * 50_000))
    assert balanced(writer.stats)
    assert writer.stats.spooled > 0
    assert writer.stats.spooled + writer.stats.dropped == 10


async def test_a_journaled_record_is_kept_beside_one_that_finds_no_room(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    item = record()
    async with table_locked(rwriter_engines):
        spool = Spool(tmp_path, max_bytes=200_000)
        writer = spooling(
            rwriter_engines, tmp_path, spool=spool, durability="journal", check_schema=False, drain_timeout=0.05
        )
        async with writer:
            await writer.send(item)
            writer.send_nowait(record(response_body="x" * 500_000))
    assert balanced(writer.stats)
    assert (writer.stats.spooled, writer.stats.dropped) == (1, 1)
    async with spooling(rwriter_engines, tmp_path) as after:
        await eventually(lambda: after.stats.replayed == 1)
    assert await stored(rwriter_engines) == {item.request_id}


async def test_a_bad_record_in_an_outage_ends_in_dead_letters(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    sent = [record(response_body="bad" if number == 7 else "good") for number in range(20)]
    async with through_a_proxy(rwriter_database) as (proxy, engine), spooling(engine, tmp_path) as writer:
        proxy.cut()
        for item in sent:
            await writer.send(item)
        await writer.flush(timeout=60)
        proxy.heal()
        await eventually(lambda: writer.stats.replayed == 20)
    assert [kept for kept, _, _ in await letters(rwriter_engines)] == [sent[7]]
    assert await stored(rwriter_engines) == ids(sent) - {sent[7].request_id}
    spool = Spool(tmp_path)
    await spool.open()
    assert await spool.count() == 0
    await spool.aclose()


async def test_a_record_that_not_even_dead_letters_takes_is_set_aside(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE dead_letters ADD CHECK (sqlstate <> '23514')"))
    async with through_a_proxy(rwriter_database) as (proxy, engine), spooling(engine, tmp_path) as writer:
        proxy.cut()
        await writer.send(record(response_body="bad"))
        await writer.send(record())
        await writer.flush(timeout=60)
        proxy.heal()
        await eventually(lambda: writer.stats.replayed == 1)
    spool = Spool(tmp_path)
    await spool.open()
    assert await spool.count() == 0
    (item,) = await spool.listing()
    assert "CheckViolation" in (item.reason or "")
    assert (await spool.show(item.seq)) is not None
    await spool.aclose()


async def test_a_full_spool_drops_counts_and_logs(
    rwriter_database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        writer = spooling(engine, tmp_path, spool=Spool(tmp_path, max_bytes=200_000), batch_size=1)
        async with writer:
            proxy.cut()
            for _ in range(10):
                await writer.send(record(response_body="x" * 50_000))
            await writer.flush(timeout=60)
            assert balanced(writer.stats)
            assert writer.stats.dropped > 0
            assert writer.stats.spooled > 0
            assert writer.stats.spooled + writer.stats.dropped == 10
    assert "is full: " in caplog.text


async def test_a_journaled_record_is_on_disk_until_its_row_is_there(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    item = record()
    async with spooling(rwriter_engines, tmp_path, durability="journal") as writer:
        async with table_locked(rwriter_engines):
            await writer.send(item)
            other = Spool(tmp_path)
            await other.open()
            assert await other.get(item.request_id) == item
            # it is in this writer's hands: nobody else replays it meanwhile
            assert await other.claim(10, 1 << 20) == []
        await writer.flush()

        async def gone() -> bool:
            return await other.count() == 0

        await eventually(gone)
        await other.aclose()
    assert await stored(rwriter_engines) == {item.request_id}
    assert (writer.stats.persisted, writer.stats.spooled) == (1, 0)


def test_journal_needs_a_spool() -> None:
    with pytest.raises(ValueError, match="spool"):
        RequestsWriter(None, durability="journal")  # type: ignore[arg-type]


SERVICE = """
import asyncio, sys
from sqlalchemy.ext.asyncio import create_async_engine
from rwriter import RequestsWriter, Spool
from tests.support.records import record

async def main():
    url, folder = sys.argv[1:]
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    async with RequestsWriter(engine, spool=Spool(folder), durability="journal", batch_size=7) as writer:
        while True:
            items = [record() for _ in range(5)]
            await asyncio.gather(*(writer.send(item) for item in items))
            print(*(item.request_id for item in items), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 20, 61])
async def test_killed_at_any_moment_a_journaling_service_loses_nothing_it_was_told_was_sent(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path, lines: int
) -> None:
    told: set[str] = set()
    command = [sys.executable, "-c", SERVICE, rwriter_database, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        for _ in range(lines):
            told.update((await asyncio.to_thread(service.stdout.readline)).split())
        service.send_signal(signal.SIGKILL)
        told.update((await asyncio.to_thread(service.stdout.read)).split())
    async with spooling(rwriter_engines, tmp_path):

        async def all_there() -> bool:
            return told <= {str(identity) for identity in await stored(rwriter_engines)}

        await eventually(all_there)
    async with rwriter_engines.write.connect() as connection:
        requests = (await connection.execute(text("SELECT count(*) FROM requests"))).scalar_one()
        templates = (await connection.execute(text("SELECT count(*) FROM request_templates"))).scalar_one()
    assert requests == templates >= len(told) > 0

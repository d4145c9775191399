"""The writer's side: chains stay whole over lost answers, outages, kills, and several writers at once."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from rwriter import RequestsWriter, Spool
from rwriter._chain.secret import VARIABLE
from rwriter.engines import DbEngines
from rwriter.ledger import audit
from rwriter.testing import TestDbEngines
from tests.chaos.commit_cutter import CommitCutter, Moment
from tests.support.driving import eventually
from tests.support.faults import address_of, refuse_bad_bodies, table_locked, through_a_proxy
from tests.support.ledgers import execute, findings, found, writing, written
from tests.support.records import record

QUICK: dict[str, Any] = {
    "max_retries": 1,
    "retry_base_delay": 0.001,
    "retry_max_delay": 0.02,
    "replay_interval": 0.05,
    "flush_timeout": 5.0,
}


async def kinds(engines: TestDbEngines) -> dict[str, int]:
    """Return the number of entries of each kind."""
    async with engines.read.connect() as connection:
        rows = await connection.execute(text("SELECT kind, count(*) FROM ledger GROUP BY kind"))
        return {kind: number for kind, number in rows}  # noqa: C416 -- rows are no pairs to a type checker


async def test_an_entry_is_written_by_the_statement_of_its_rows(rwriter_engines: TestDbEngines) -> None:
    records = await written(rwriter_engines, 12)
    together = """
        SELECT count(*) FROM ledger l JOIN requests r ON r.id = ANY (l.ids) JOIN request_templates t ON t.id = r.id
        WHERE l.kind = 'stored' AND l.xmin = r.xmin AND l.xmin = t.xmin
    """
    async with rwriter_engines.read.connect() as connection:
        assert (await connection.execute(text(together))).scalar_one() == len(records)


async def test_answers_lost_at_the_commit_leave_whole_chains_and_an_exact_account(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    moments = itertools.cycle([None, Moment.AFTER, None, Moment.BEFORE, None, Moment.WITH])
    records = [record(response_body="bad" if number == 13 else "good") for number in range(25)]
    await refuse_bad_bodies(rwriter_engines)
    async with CommitCutter(*address_of(rwriter_database), moments, flushes_only=True) as proxy:
        async with DbEngines.from_url(proxy.url(rwriter_database)) as engines:
            async with writing(engines, retry_base_delay=0.001, retry_max_delay=0.02, max_retries=50) as writer:
                for each in records:
                    await writer.send(each)
                await writer.flush()
    assert proxy.cuts[Moment.AFTER] > 1
    # a commit whose answer was lost is found in the ledger: no record counts as skipped
    assert (writer.stats.persisted, writer.stats.skipped, writer.stats.dead) == (24, 0, 1)
    assert await findings(rwriter_engines, bodies=True) == {}


async def test_a_batch_that_committed_unseen_and_is_halved_then_is_in_one_entry(
    rwriter_engines: TestDbEngines,
) -> None:
    async with writing(rwriter_engines) as writer:
        assert writer._book is not None
        first, second = record(), record()
        sink = writer._book.recording("stored")
        await sink.persist_completed([first, second])
        with writer._book.lanes.one(writer.store._connections) as lane:
            # as if its answer had been lost
            seen, lane.head = lane.head, type(lane.head)(lane.head.lane, digest=lane._tried.previous)  # type: ignore[union-attr]
        halves = [await sink.persist_completed([each]) for each in (first, second)]
        assert [half.skipped for half in halves] == [1, 1]
        assert lane.head.seq == seen.seq + 2
    assert await findings(rwriter_engines, bodies=True) == {}


async def test_an_outage_into_the_spool_and_back_is_explained(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with writing(engine, spool=Spool(tmp_path), **QUICK) as writer:
            await writer.send(record(), wait="committed")
            proxy.cut()
            for _ in range(30):
                await writer.send(record())
            await writer.flush(timeout=60)
            assert writer.stats.spooled == 30
            await eventually(lambda: bool(list(tmp_path.glob("ledger-*"))))
            proxy.heal()
            await eventually(lambda: writer.stats.replayed == 30)
    assert await findings(rwriter_engines, bodies=True) == {}
    counted = await kinds(rwriter_engines)
    assert counted["spooled"] >= 1
    assert counted["replayed"] >= 1
    assert list(tmp_path.glob("ledger-*")) == []


async def test_a_writer_that_ended_in_an_outage_is_completed_by_the_next_on_its_spool(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with writing(engine, spool=Spool(tmp_path), drain_timeout=0.5, **QUICK) as writer:
            await writer.send(record(), wait="committed")
            proxy.cut()
            for _ in range(10):
                await writer.send(record())
            await writer.flush(timeout=60)
    await execute(rwriter_engines, "UPDATE ledger SET at = at - interval '1 hour'")
    assert (await findings(rwriter_engines)).keys() == {"not_closed"}
    async with writing(rwriter_engines, spool=Spool(tmp_path), **QUICK) as following:
        await eventually(lambda: following.stats.replayed == 10)
    report = await audit(rwriter_engines, bodies=True)
    assert (found(report), report.writers, report.records) == ({}, 2, 11)


async def test_a_record_that_stays_in_a_spool_and_one_that_was_dropped_are_named(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    options = QUICK | {"max_retries": 0, "flush_timeout": 0.2, "drain_timeout": 0.3}
    async with table_locked(rwriter_engines):
        async with writing(rwriter_engines, spool=Spool(tmp_path), **options) as writer:
            await writer.send(record())
        async with writing(rwriter_engines, give_up_after=0, **options) as other:
            await other.send(record())
    assert (writer.stats.spooled, other.stats.dropped) == (1, 1)
    # the spool is lost, and the entries beside it are not
    for path in tmp_path.glob("spool*"):
        path.unlink()
    async with writing(rwriter_engines, spool=Spool(tmp_path), **QUICK):
        await eventually(lambda: not list(tmp_path.glob("ledger-*")))
    assert await findings(rwriter_engines) == {"still_spooled": 1, "dropped": 1}


async def test_several_writers_at_once_and_a_redelivery_to_both(rwriter_engines: TestDbEngines) -> None:
    records = [record() for _ in range(60)]

    async def write(portion: list[Any]) -> int:
        async with writing(rwriter_engines, flush_concurrency=3) as writer:
            for each in portion:
                await writer.send(each)
        return writer.stats.persisted

    stored = await asyncio.gather(write(records[:40]), write(records[20:]), write(records))
    assert sum(stored) == 60
    report = await audit(rwriter_engines, bodies=True)
    assert (found(report), report.writers, report.records) == ({}, 3, 60)


async def test_a_heartbeat_tells_the_account_and_the_heads(
    rwriter_engines: TestDbEngines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rwriter.ledger._book.HEARTBEAT", 0.02)
    caplog.set_level("INFO", "rwriter")
    async with writing(rwriter_engines) as writer:
        await writer.send(record(), wait="committed")

        async def beaten() -> bool:
            return (await kinds(rwriter_engines)).get("heartbeat", 0) > 1

        await eventually(beaten)
    assert "ledger head" in caplog.text
    assert await findings(rwriter_engines) == {}


async def test_with_the_ledger_off_nothing_is_written_to_it(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines) as writer:
        await writer.send(record(), wait="committed")
    await writer.store.purge(datetime.now(UTC) + timedelta(days=1))
    assert await kinds(rwriter_engines) == {}


SERVICE = """
import asyncio, sys
from sqlalchemy.ext.asyncio import create_async_engine
from rwriter import RequestsWriter, Spool
from tests.support.records import record

async def main():
    url, folder, durability = sys.argv[1:]
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    options = {"spool": Spool(folder), "durability": durability, "batch_size": 7, "channel_capacity": 50}
    async with RequestsWriter(engine, ledger=True, **options) as writer:
        while True:
            items = [record() for _ in range(5)]
            await asyncio.gather(*(writer.send(item) for item in items))
            print(*(item.request_id for item in items), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(("durability", "most"), [("journal", 0), ("memory", 50)])
async def test_a_writer_that_was_killed_is_named_with_the_most_that_can_be_missing(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path, durability: str, most: int
) -> None:
    command = [sys.executable, "-c", SERVICE, rwriter_database, str(tmp_path), durability]
    told: set[str] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {}) as service:
        assert service.stdout is not None
        for _ in range(20):
            told.update((await asyncio.to_thread(service.stdout.readline)).split())
        service.send_signal(signal.SIGKILL)
        told.update((await asyncio.to_thread(service.stdout.read)).split())
    async with writing(rwriter_engines, spool=Spool(tmp_path), **QUICK) as following:
        assert following.spool is not None
        spool = following.spool

        async def is_empty() -> bool:
            return await spool.count() == 0

        await eventually(is_empty)
    await execute(rwriter_engines, "UPDATE ledger SET at = at - interval '1 hour'")
    report = await audit(rwriter_engines, bodies=True)
    (finding,) = report.findings
    assert (finding.kind, finding.number) == ("not_closed", most)
    async with rwriter_engines.read.connect() as connection:
        stored = {str(each) for each in (await connection.execute(text("SELECT id FROM requests"))).scalars()}
    assert len(told - stored) <= most
    assert os.environ[VARIABLE]

"""Records of a spool are for one database: none is replayed into another one."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from rwriter import RequestsWriter, Spool, SpoolUnusable
from rwriter.spool._file import FILE_NAME
from rwriter.spool._rows import SELECT, checksum_of, read_row
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually
from tests.support.fates import stored
from tests.support.faults import through_a_proxy
from tests.support.records import record
from tests.support.spools import ALL, found_in, opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
async def spool(folder: Path) -> AsyncIterator[Spool]:
    async with opened(folder) as made:
        yield made


async def test_a_spool_belongs_to_one_database(folder: Path, spool: Spool) -> None:
    await spool.belongs_to("one")
    await spool.belongs_to("one")
    with pytest.raises(SpoolUnusable, match="another database"):
        await spool.belongs_to("another")
    adopting = Spool(folder, adopt=True)
    await adopting.open()
    await adopting.belongs_to("another")
    await adopting.aclose()


async def test_a_writer_refuses_the_spool_of_another_database(rwriter_engines: TestDbEngines, folder: Path) -> None:
    spool = Spool(folder)
    await spool.open()
    await spool.belongs_to("another")
    await spool.put([record()])
    await spool.aclose()
    writer = RequestsWriter(rwriter_engines, spool=Spool(folder))
    with pytest.raises(SpoolUnusable, match="another database"):
        await writer.__aenter__()
    assert writer.health.state == "failed"
    assert await stored(rwriter_engines) == set()


QUICK: Final[dict[str, Any]] = {
    "max_retries": 0,
    "retry_base_delay": 0.01,
    "retry_max_delay": 0.05,
    "replay_interval": 0.05,
}


async def test_a_writer_that_found_the_database_away_replays_nothing_of_another(
    rwriter_engines: TestDbEngines, rwriter_database: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, early, late = record(), record(), record()
    async with opened(folder) as spool:
        await spool.belongs_to("another")
        await spool.put([theirs])
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        proxy.cut()
        async with RequestsWriter(engine, spool=Spool(folder), **QUICK) as writer:
            await writer.send(early)
            await writer.flush()
            proxy.heal()
            await eventually(lambda: "nothing is replayed" in caplog.text)
            # its own records lie in the other database's spool, and come out of it to where they belong
            await eventually(lambda: writer.stats.replayed == 1)
            # and so in the next outage, which the writer finds out about by itself that it is over
            proxy.cut()
            await writer.send(late)
            await writer.flush()
            proxy.heal()
            await eventually(lambda: writer.stats.replayed == 2)
            assert writer.health.state == "ok"
    assert await stored(rwriter_engines) == {early.request_id, late.request_id}
    assert await found_in(folder) == [theirs]


async def test_a_writer_with_another_databases_spool_finds_out_that_its_own_is_back_with_nothing_to_replay(
    rwriter_engines: TestDbEngines, rwriter_database: str, folder: Path
) -> None:
    async with opened(folder) as spool:
        await spool.belongs_to("another")
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        proxy.cut()
        async with RequestsWriter(engine, spool=Spool(folder), **QUICK) as writer:
            proxy.heal()
            await eventually(lambda: writer.health.state == "ok")
            proxy.cut()
            await writer.send(record())
            await writer.flush()
            assert writer.health.state == "spooling"
            # as an operator would, who has seen that they are there
            async with opened(folder) as spool:
                await spool.remove([row.seq for row in await spool.claim(*ALL)])
            proxy.heal()
            await eventually(lambda: writer.health.state == "ok")


async def test_records_put_before_the_database_was_known_are_for_nobody_but_it(folder: Path) -> None:
    ours, theirs = record(), record()
    async with opened(folder) as here, opened(folder) as there:
        await here.belongs_to("one")
        await here.put([ours])
        await there.put([theirs])
        # who put it lives, and will know
        assert [row.record for row in await here.claim(*ALL)] == [ours]
        with pytest.raises(SpoolUnusable, match="another database"):
            await there.belongs_to("another")
        assert await here.claim(*ALL) == []
        assert [row.record for row in await there.claim(*ALL)] == [theirs]


async def test_of_a_process_that_died_before_it_knew_its_database_the_records_are_the_spools_own(folder: Path) -> None:
    given = record()
    async with opened(folder) as spool:
        await spool.put([given])
    async with opened(folder) as spool:
        await spool.belongs_to("one")
        assert [row.record for row in await spool.claim(*ALL)] == [given]


async def test_adopting_takes_the_records_of_the_database_that_was_moved_and_no_others(folder: Path) -> None:
    moved, foreign = record(), record()
    async with opened(folder) as spool:
        await spool.belongs_to("one")
        await spool.put([moved])
    async with opened(folder) as spool:
        with pytest.raises(SpoolUnusable):
            await spool.belongs_to("another")
        await spool.put([foreign])
    async with opened(folder, adopt=True) as spool:
        await spool.belongs_to("one, moved")
        assert [row.record for row in await spool.claim(*ALL)] == [moved]


async def test_a_row_whose_database_was_tampered_with_is_set_aside(folder: Path) -> None:
    async with opened(folder) as spool:
        await spool.belongs_to("one")
        await spool.put([record()])
    with sqlite3.connect(folder / FILE_NAME) as file:
        file.execute("UPDATE records SET database = 'oNe'")
    file.close()
    async with opened(folder) as spool:
        await spool.belongs_to("one")
        assert await spool.claim(*ALL) == []
        assert [item.reason for item in await spool.listing()] == ["damaged: its checksum does not match"]


async def test_a_file_from_before_the_rows_had_owners_is_opened_and_replayed(folder: Path) -> None:
    given = [record(custom_id="chat-1"), record()]
    async with opened(folder) as spool:
        await spool.put(given)
    with sqlite3.connect(folder / FILE_NAME) as file:
        file.execute("DROP INDEX records_origin")
        file.execute("DROP TABLE databases")
        for seq, row in map(read_row, file.execute(f"{SELECT} FROM records").fetchall()):
            assert row is not None
            old = checksum_of(row._replace(origin=None))
            file.execute("UPDATE records SET checksum = ? WHERE seq = ?", (old, seq))
        for table in ("records", "set_aside"):
            for column in ("database", "origin"):
                file.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    file.close()
    async with opened(folder) as spool:
        await spool.belongs_to("one")
        assert [row.record for row in await spool.claim(*ALL)] == given
        await spool.put(given)
    assert len(await found_in(folder)) == 2 * len(given)

"""Partitions made ahead by a writer's upkeep, whose turn is in nobody's way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore, RequestsWriter, Upkeep, migrate
from rwriter.partitions import drop, listing
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually
from tests.support.migrations import engine_on

AHEAD = timedelta(weeks=9)


async def reach(engine: AsyncEngine) -> datetime:
    return (await listing(engine))[-1].end


async def test_partitions_are_made_ahead(rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rwriter")
    engine = rwriter_engines.write
    wanted = datetime.now(UTC) + AHEAD
    assert await reach(engine) < wanted
    async with RequestsWriter(rwriter_engines, upkeep=Upkeep(partitions=AHEAD)):
        await eventually(lambda: "upkeep: made 5 partitions" in caplog.text)
    assert await reach(engine) >= wanted


async def test_on_plain_tables_it_is_told_and_the_other_jobs_are_done(
    empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate.upgrade(empty_database)
    async with engine_on(empty_database) as engine:
        upkeep = Upkeep(partitions=AHEAD, fail_stale_after=timedelta(hours=1))
        async with RequestsWriter(engine, upkeep=upkeep) as writer:
            await eventually(lambda: "the tables are not partitioned" in caplog.text)
            assert writer.health.state == "ok"


async def test_a_partition_that_is_half_dropped_is_completed_while_somebody_has_the_turn(
    engine: AsyncEngine, store: RequestStore, weeks_ago: datetime
) -> None:
    first = (await listing(engine))[0]
    async with engine.connect() as connection:
        await connection.execute(text("SELECT count(*) FROM requests"))
        with pytest.raises(Exception, match="could not be detached"):
            await drop(engine, first.end, patience=0.5)
    async with store.turn("upkeep") as mine:
        assert mine
        # FINALIZE waits for every older snapshot of the database
        await drop(engine, first.end, patience=10)
    assert (await listing(engine))[0].start == first.end

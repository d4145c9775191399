"""A daemon's upkeep of what it takes for stale, run over rows that this library has in flight."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore, new_request_id
from rwriter.schema import FINISHED_STATES, NIL_DAEMON, requests
from tests.support.records import STARTED, TOOK, new_request, record
from tests.support.rows import Counts, in_state, insert_request, one

HOUR = timedelta(hours=1)


async def put_back(engine: AsyncEngine) -> None:
    """Free every row that is in progress, whosesoever it is, to be claimed again."""
    freed = {"state": "pending", "daemon_id": None, "claimed_at": None, "started_at": None}
    async with engine.begin() as connection:
        await connection.execute(update(requests).where(requests.c.state == "processing").values(freed))


async def claimable(engine: AsyncEngine) -> list[uuid.UUID]:
    """The rows that a daemon would claim today, or within any deadline it gives a batch."""
    due = or_(requests.c.not_before.is_(None), requests.c.not_before < STARTED + timedelta(days=36_500))
    async with engine.connect() as connection:
        found = await connection.execute(select(requests.c.id).where(requests.c.state == "pending", due))
        return list(found.scalars())


@pytest.mark.both_schemas("RequestStore.persist_completed")
@pytest.mark.parametrize(("status", "ended"), [(200, "completed_at"), (500, "failed_at")])
async def test_a_row_that_was_put_back_is_finished_with_the_records_times(
    store: RequestStore, engine: AsyncEngine, status: int, ended: str
) -> None:
    new = new_request()
    await store.create_realtime(new)
    await put_back(engine)
    assert await claimable(engine) == []

    done = await store.persist_completed([record(request_id=new.request_id, status_code=status)])

    assert done == Counts(inserted=0, updated=1, skipped=0)
    row = await one(engine, requests)
    assert (row["claimed_at"], row["started_at"], row[ended]) == (STARTED, STARTED, STARTED + TOOK)
    assert (row["daemon_id"], row["not_before"]) == (NIL_DAEMON, None)
    assert row["model"] == new.model


async def test_a_claimed_row_keeps_the_time_of_its_claim(store: RequestStore, engine: AsyncEngine) -> None:
    claim = STARTED - HOUR
    row = await insert_request(engine, **in_state("claimed", service_tier="priority", claimed_at=claim))
    assert (await store.persist_completed([record(request_id=row)])).updated == 1
    finished = await one(engine, requests)
    assert (finished["claimed_at"], finished["started_at"]) == (claim, STARTED)


async def test_a_row_put_back_whose_process_died_fails_as_stale(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    await insert_request(engine, **in_state("pending", service_tier="priority", created_at=STARTED))
    await put_back(engine)
    assert await store.fail_stale(HOUR) == 0
    async with engine.begin() as connection:
        await connection.execute(update(requests).values(created_at=requests.c.created_at - 2 * HOUR))
    assert await store.fail_stale(HOUR) == 1
    assert (await one(engine, requests, new.request_id))["state"] == "failed"


async def test_a_record_skipped_for_a_row_that_is_not_finished_is_logged(
    store: RequestStore, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    flex = await insert_request(engine, **in_state("pending"))
    batched = await insert_request(engine, **in_state("processing", service_tier="priority", batch_id=new_request_id()))
    result = await store.persist_completed([record(), record(request_id=flex), record(request_id=batched)])
    assert result == Counts(inserted=1, updated=0, skipped=2)
    (entry,) = [entry for entry in caplog.records if entry.name == "rwriter"]
    assert entry.levelno == logging.WARNING
    assert str(flex) in entry.getMessage()
    assert str(batched) in entry.getMessage()


async def test_a_redelivery_is_not_logged(
    store: RequestStore, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    done = [await insert_request(engine, **in_state(state, service_tier="priority")) for state in FINISHED_STATES]
    batch = [record(), *(record(request_id=identity) for identity in done)]
    await store.persist_completed(batch)
    assert (await store.persist_completed(batch)).skipped == len(batch)
    assert [entry.getMessage() for entry in caplog.records if entry.name == "rwriter"] == []

"""delete_request and fail_stale: what is gone, what must stay, and what can no longer come back."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import DbEngines, RequestFilter, RequestStore, new_request_id
from rwriter.schema import STATES, TOMBSTONE_OWNER, request_templates, requests
from rwriter.store._predicates import CHUNK
from tests.support.driving import eventually
from tests.support.listing import template_of
from tests.support.records import new_request, record
from tests.support.rows import Counts, in_state, insert_request, lock_waits, one, rows, snapshot, template_ids

SKIPPED = Counts(inserted=0, updated=0, skipped=1)
HOUR = timedelta(hours=1)


async def with_template(engine: AsyncEngine, **columns: Any) -> uuid.UUID:
    """A row of another program's, with a template of its own."""
    template_id = new_request_id()
    async with engine.begin() as connection:
        await connection.execute(insert(request_templates), template_of(template_id, path="/v1/secret"))
    return await insert_request(engine, template_id=template_id, **columns)


async def begun(engine: AsyncEngine, age: timedelta, **columns: Any) -> uuid.UUID:
    """A realtime row that has been processing for ``age``."""
    started = datetime.now(UTC) - age
    return await insert_request(
        engine, **in_state("processing", service_tier="priority", started_at=started, **columns)
    )


@pytest.mark.parametrize("owner", [None, "tenant-a"])
@pytest.mark.both_schemas("RequestStore.delete_request")
async def test_a_finished_request_goes_with_its_template_and_leaves_the_others(
    store: RequestStore, engine: AsyncEngine, owner: str | None
) -> None:
    gone, stays = record(), record()
    await store.persist_completed([gone, stays])
    assert await store.delete_request(gone.request_id, owner)
    row = await one(engine, requests)
    assert row["id"] == stays.request_id
    assert await template_ids(engine) == {row["template_id"]}
    assert await store.get_request(gone.request_id) is None


@pytest.mark.parametrize("state", ["completed", "failed", "canceled"])
async def test_finished_rows_of_every_kind_are_deleted(store: RequestStore, engine: AsyncEngine, state: str) -> None:
    row = await with_template(engine, **in_state(state))
    assert await store.delete_request(row)
    assert await snapshot(engine) == [[], []]
    assert not await store.delete_request(row)


@pytest.mark.parametrize("state", STATES)
async def test_another_owners_request_is_neither_deleted_nor_touched(
    store: RequestStore, engine: AsyncEngine, state: str
) -> None:
    row = await with_template(engine, **in_state(state))
    before = await snapshot(engine)
    for stranger in ("tenant-x", "", "tenant-D", "tenant-d%", "tenant-d\0", "\ud800"):
        assert not await store.delete_request(row, stranger)
    assert await snapshot(engine) == before


async def test_batch_rows_unknown_ids_and_remains_are_not_there_to_delete(
    store: RequestStore, engine: AsyncEngine
) -> None:
    ids = [await with_template(engine, **in_state(state, batch_id=new_request_id())) for state in STATES]
    ids.append(await insert_request(engine, **in_state("canceled", created_by=TOMBSTONE_OWNER)))
    before = await snapshot(engine)
    for request_id in (*ids, new_request_id()):
        assert not await store.delete_request(request_id)
        assert not await store.delete_request(request_id, TOMBSTONE_OWNER)
    assert await snapshot(engine) == before


@pytest.mark.parametrize("state", ["processing", "claimed", "pending"])
@pytest.mark.both_schemas("RequestStore.delete_request")
async def test_a_request_in_flight_leaves_a_blank_row_that_no_reader_sees(
    store: RequestStore, engine: AsyncEngine, state: str
) -> None:
    row = await with_template(engine, **in_state(state), custom_id="chatcmpl-1", routed_model="secret", error="secret")
    assert await store.delete_request(row, "tenant-d")

    left = await one(engine, requests)
    assert (left["id"], left["state"], left["created_by"]) == (row, "canceled", TOMBSTONE_OWNER)
    assert left["canceled_at"] is not None
    texts = ("template_id", "custom_id", "response_body", "error", "routed_model", "response_status")
    assert [left[name] for name in texts] == [None] * len(texts)
    assert (left["model"], left["response_size"]) == ("", 0)
    assert await template_ids(engine) == set()
    assert await store.get_request(row) is None
    assert not await store.delete_request(row)
    for asked in (RequestFilter(), RequestFilter(created_by=TOMBSTONE_OWNER), RequestFilter(status="canceled")):
        page = await store.list_requests(asked)
        assert (page.data, page.total_count) == ([], 0)


@pytest.mark.both_variants
async def test_a_late_completion_cannot_bring_a_deleted_request_back(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    assert await store.delete_request(new.request_id)
    before = await snapshot(engine)
    late = record(request_id=new.request_id, response_body="secret")
    assert await store.persist_completed([late]) == SKIPPED
    assert await snapshot(engine) == before
    assert before[1] == []
    assert await store.get_request(new.request_id) is None


async def test_a_template_that_another_request_uses_is_kept(store: RequestStore, engine: AsyncEngine) -> None:
    template_id = new_request_id()
    async with engine.begin() as connection:
        await connection.execute(insert(request_templates), template_of(template_id, path="/v1/files"))
    shared = {"template_id": template_id}
    batched = await insert_request(engine, **in_state("processing", batch_id=new_request_id(), **shared))
    before = await snapshot_of(engine, batched)
    for state in ("completed", "processing"):
        mine = await insert_request(engine, **in_state(state, **shared))
        assert await store.delete_request(mine)
    assert await snapshot_of(engine, batched) == before
    assert await template_ids(engine) == {template_id}


async def snapshot_of(engine: AsyncEngine, request_id: uuid.UUID) -> dict[str, Any]:
    return dict(await one(engine, requests, request_id))


async def test_deleting_waits_for_a_completion_under_way_and_takes_the_finished_row(
    store: RequestStore, engine: AsyncEngine
) -> None:
    new = new_request()
    await store.create_realtime(new)
    async with engine.connect() as connection:
        finished = {"state": "completed", "response_status": 200, "response_body": "secret"}
        await connection.execute(requests.update().values(**finished, completed_at=datetime.now(UTC)))
        deletion = asyncio.create_task(store.delete_request(new.request_id))
        await eventually(lambda: lock_waits(engine))
        await connection.commit()
    assert await deletion
    assert await snapshot(engine) == [[], []]


async def test_a_completion_that_races_a_deletion_never_leaves_the_data(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    async with DbEngines.from_url(database, schema=schema) as engines:
        store = RequestStore(engines)
        for _ in range(25):
            new = new_request()
            await store.create_realtime(new)
            late = record(request_id=new.request_id, response_body="secret")
            deleted, result = await asyncio.gather(
                store.delete_request(new.request_id), store.persist_completed([late])
            )
            assert deleted
            assert result.inserted == 0
            assert await store.get_request(new.request_id) is None
    left = await rows(engine, requests)
    assert {row["created_by"] for row in left} <= {TOMBSTONE_OWNER}
    assert {row["response_body"] for row in left} <= {None}
    assert await template_ids(engine) == set()


async def test_two_deletions_at_once_are_one_deletion(database: str, schema: str | None, engine: AsyncEngine) -> None:
    async with DbEngines.from_url(database, schema=schema) as engines:
        store = RequestStore(engines)
        for state in ("completed", "processing") * 10:
            row = await with_template(engine, **in_state(state))
            answers = await asyncio.gather(*(store.delete_request(row) for _ in range(3)))
            assert sorted(answers) == [False, False, True]
    assert await template_ids(engine) == set()


@pytest.mark.both_schemas("RequestStore.fail_stale")
async def test_a_row_stuck_in_processing_fails_with_504_and_says_why(store: RequestStore, engine: AsyncEngine) -> None:
    stuck = await begun(engine, 2 * HOUR, custom_id="chatcmpl-1")
    before = dict(await one(engine, requests))

    assert await store.fail_stale(HOUR) == 1

    row = dict(await one(engine, requests))
    changed = {name: row[name] for name in row if row[name] != before[name] and name not in {"xmin", "updated_at"}}
    assert before["started_at"] < changed.pop("failed_at") <= row["updated_at"]
    error = json.loads(changed.pop("error"))
    assert error["type"] == "Abandoned"
    assert set(error) == {"type", "details"}
    assert changed == {"state": "failed", "response_status": 504}
    detail = await store.get_request(stuck)
    assert detail is not None
    assert detail.status == "failed"
    assert detail.duration_ms is not None
    assert detail.duration_ms >= 2 * 3600 * 1000
    assert await store.fail_stale(HOUR) == 0


async def test_rows_that_are_young_or_not_realtime_are_not_stale(store: RequestStore, engine: AsyncEngine) -> None:
    await begun(engine, HOUR / 2)
    old = datetime.now(UTC) - 2 * HOUR
    for state in STATES:
        for tier in (None, "flex", "default"):
            await insert_request(engine, **in_state(state, created_at=old), service_tier=tier)
        if state != "processing":
            await insert_request(engine, **in_state(state, created_at=old), service_tier="priority")
    await insert_request(
        engine, **in_state("processing", batch_id=new_request_id(), started_at=old), service_tier="priority"
    )
    before = await snapshot(engine)
    assert await store.fail_stale(HOUR) == 0
    assert await snapshot(engine) == before


async def test_a_row_called_stale_keeps_its_end_when_the_answer_comes_late(
    store: RequestStore, engine: AsyncEngine
) -> None:
    stuck = await begun(engine, 2 * HOUR)
    await store.fail_stale(HOUR)
    before = await snapshot(engine)
    assert await store.persist_completed([record(request_id=stuck)]) == SKIPPED
    assert await snapshot(engine) == before


async def test_more_stale_rows_than_one_chunk_are_all_failed(store: RequestStore, engine: AsyncEngine) -> None:
    many = 2 * CHUNK + 3
    old = datetime.now(UTC) - 2 * HOUR
    stuck = in_state("processing", service_tier="priority", created_by="tenant-d", model="m", started_at=old)
    async with engine.begin() as connection:
        await connection.execute(insert(requests), [stuck | {"id": new_request_id()} for _ in range(many)])
    assert await store.fail_stale(HOUR) == many
    found = await rows(engine, requests)
    assert {row["state"] for row in found} == {"failed"}
    # bounded transactions: no more rows in any of them than a chunk
    sizes = [sum(row["xmin"] == xmin for row in found) for xmin in {row["xmin"] for row in found}]
    assert sorted(sizes) == [3, CHUNK, CHUNK]


async def test_a_stale_row_that_another_process_has_locked_is_left_to_it(
    store: RequestStore, engine: AsyncEngine
) -> None:
    locked, free = await begun(engine, 2 * HOUR), await begun(engine, 2 * HOUR)
    async with engine.connect() as connection:
        await connection.execute(select(requests.c.id).where(requests.c.id == locked).with_for_update())
        async with asyncio.timeout(20):
            assert await store.fail_stale(HOUR) == 1
    states = {row["id"]: row["state"] for row in await rows(engine, requests)}
    assert states == {locked: "processing", free: "failed"}
    assert await store.fail_stale(HOUR) == 1


@pytest.mark.parametrize("age", [timedelta(0), timedelta(seconds=-1), -HOUR])
async def test_an_age_that_is_not_positive_is_refused(store: RequestStore, engine: AsyncEngine, age: timedelta) -> None:
    await begun(engine, 2 * HOUR)
    with pytest.raises(ValueError, match="older_than"):
        await store.fail_stale(age)
    assert (await one(engine, requests))["state"] == "processing"


async def test_no_row_is_older_than_the_greatest_age(store: RequestStore, engine: AsyncEngine) -> None:
    await begun(engine, 2 * HOUR)
    assert await store.fail_stale(timedelta.max) == 0


@pytest.mark.parametrize("status", [499, 504])
async def test_a_request_given_up_cannot_come_back_with_its_late_completion_either(
    store: RequestStore, engine: AsyncEngine, status: int
) -> None:
    new = new_request()
    await store.create_realtime(new)
    await store.persist_completed([record(request_id=new.request_id, status_code=status, response_body="given up")])
    assert await store.delete_request(new.request_id)
    assert await store.persist_completed([record(request_id=new.request_id)]) == SKIPPED
    assert await store.get_request(new.request_id) is None
    row = await one(engine, requests)
    assert (row["state"], row["created_by"], row["response_body"]) == ("canceled", TOMBSTONE_OWNER, None)
    assert not await template_ids(engine)

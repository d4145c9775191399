"""erase and purge: everything of an owner's, everything old, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore, new_request_id
from rwriter.schema import STATES, TOMBSTONE_OWNER, dead_letters, request_templates, requests
from rwriter.store import _removal
from tests.support.records import new_request, record
from tests.support.rows import in_state, insert_request, one, rows, template_ids

OLD = datetime(2025, 1, 1, tzinfo=UTC)
CUT = datetime(2025, 6, 1, tzinfo=UTC)
NEW = datetime(2026, 1, 1, tzinfo=UTC)


def at(moment: datetime, **changes: object) -> dict[str, object]:
    return {"started_at": moment, "completed_at": moment + timedelta(seconds=1)} | changes


async def letters(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(dead_letters.c.created_by))).scalars())


@pytest.mark.both_schemas("RequestStore.erase")
async def test_erasing_an_owner_leaves_no_word_of_theirs_and_all_of_the_others(
    store: RequestStore, engine: AsyncEngine
) -> None:
    theirs, other = [record() for _ in range(3)], record(created_by="tenant-b")
    await store.persist_completed([*theirs, record(status_code=500), other])
    running = new_request(created_by="tenant-a")
    await store.create_realtime(running)
    for owner in ("tenant-a", "tenant-b"):
        await store.bury(record(created_by=owner), sqlstate="23514", error="refused")
    assert await store.erase("tenant-a") == 6
    kept, tombstone = sorted(await rows(engine, requests), key=lambda row: str(row["created_by"]), reverse=True)
    assert kept["id"] == other.request_id
    assert (tombstone["id"], tombstone["state"], tombstone["created_by"]) == (
        running.request_id, "canceled", TOMBSTONE_OWNER,
    )  # fmt: skip
    assert await template_ids(engine) == {kept["template_id"]}
    assert await letters(engine) == ["tenant-b"]
    assert await store.erase("tenant-a") == 0
    # the app answers the erased request at last
    late = await store.persist_completed([record(request_id=running.request_id)])
    assert late.skipped == 1
    assert await store.get_request(running.request_id) is None


async def test_an_owner_is_named_as_records_name_it(store: RequestStore, engine: AsyncEngine) -> None:
    await store.persist_completed([record(created_by=" a\0b ")])
    assert await store.erase("a") == 0
    assert await store.erase(" a\0b ") == 1
    assert await rows(engine, requests) == []


async def test_nobodys_name_erases_nothing(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    await store.delete_request(new.request_id)
    await insert_request(engine, batch_id=new_request_id(), **in_state("completed"))
    assert await store.erase(TOMBSTONE_OWNER) == await store.erase("  ") == 0
    assert len(await rows(engine, requests)) == 2


async def test_the_template_of_a_file_and_one_still_in_use_stay(store: RequestStore, engine: AsyncEngine) -> None:
    await store.persist_completed([record(), record()])
    first, second = await rows(engine, requests)
    async with engine.begin() as connection:
        await connection.execute(
            update(request_templates)
            .where(request_templates.c.id == first["template_id"])
            .values(file_id=new_request_id())
        )
    await insert_request(engine, template_id=second["template_id"], created_by="tenant-b")
    await store.erase("tenant-a")
    assert await template_ids(engine) == {first["template_id"], second["template_id"]}


async def test_no_more_than_the_limit_goes_at_a_time(store: RequestStore, engine: AsyncEngine) -> None:
    await store.persist_completed([record() for _ in range(5)])
    for _ in range(3):
        await store.bury(record(), sqlstate=None, error="x")
    gone = [await store.erase("tenant-a", 3) for _ in range(4)]
    assert gone == [3, 3, 2, 0]
    assert (await rows(engine, requests), await letters(engine)) == ([], [])


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_that_removes_nothing_is_refused(store: RequestStore, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await store.erase("tenant-a", limit)
    with pytest.raises(ValueError, match="limit"):
        await store.purge(NEW, limit)


async def test_transactions_are_bounded(
    store: RequestStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_removal, "CHUNK", 4)
    await store.persist_completed([record(**at(OLD)) for _ in range(10)])
    async with engine.begin() as connection:
        await connection.execute(insert(dead_letters), [_letter() for _ in range(5)])
    assert await store.purge(CUT, 13) == 13
    assert await rows(engine, requests) == []
    assert len(await letters(engine)) == 2


def _letter() -> dict[str, object]:
    return {"request_id": new_request_id(), "created_by": "tenant-a", "error": "x", "payload": b"", "created_at": OLD}


async def test_rows_that_somebody_has_locked_are_passed_over(store: RequestStore, engine: AsyncEngine) -> None:
    locked, free = record(**at(OLD)), record(**at(OLD))
    await store.persist_completed([locked, free])
    async with engine.begin() as connection:
        await connection.execute(select(requests).where(requests.c.id == locked.request_id).with_for_update())
        assert await store.purge(CUT) == 1
        assert await store.erase("tenant-a") == 0
    assert (await one(engine, requests))["id"] == locked.request_id
    assert await store.erase("tenant-a") == 1


@pytest.mark.both_schemas("RequestStore.purge")
async def test_purging_removes_what_is_old_and_finished_and_ours(store: RequestStore, engine: AsyncEngine) -> None:
    await store.persist_completed([record(**at(OLD)), record(**at(OLD, status_code=500)), record(**at(NEW))])
    await store.persist_completed([record(**at(CUT))])  # not before itself
    stay = [
        await insert_request(engine, batch_id=new_request_id(), created_at=OLD, **in_state("completed")),
        await insert_request(engine, created_at=OLD, **in_state("completed")),  # tier flex
        *[
            await insert_request(engine, created_at=OLD, **in_state(state, service_tier="priority"))
            for state in STATES[:3]
        ],
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(dead_letters), [_letter(), _letter() | {"created_at": NEW}])
    assert await store.purge(CUT) == 3
    left = await rows(engine, requests)
    assert {row["id"] for row in left if row["created_at"] == OLD} == set(stay)
    assert {row["created_at"] for row in left} == {OLD, CUT, NEW}
    assert len(await template_ids(engine)) == 2
    assert len(await letters(engine)) == 1


async def test_the_remains_of_deletions_go_with_age(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    await store.delete_request(new.request_id)
    assert await store.purge(CUT) == 0
    assert await store.purge(datetime.now(UTC) + timedelta(hours=1)) == 1
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(requests))).scalar_one() == 0


async def test_a_naive_time_is_refused(store: RequestStore) -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        await store.purge(datetime(2025, 1, 1))  # noqa: DTZ001 -- the mistake itself

"""erase and purge: everything of an owner's, everything old, and nothing else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import Purge, RequestStore, new_request_id
from rwriter.schema import STATES, TOMBSTONE_OWNER, dead_letters, erasures, request_templates, requests
from rwriter.store import DeadLetters
from rwriter.store._removal import _erase, _rows
from tests.support.records import new_request, record
from tests.support.rows import in_state, insert_request, one, rows, template_ids

OLD = datetime(2025, 1, 1, tzinfo=UTC)
CUT = datetime(2025, 6, 1, tzinfo=UTC)
NEW = datetime(2026, 1, 1, tzinfo=UTC)


def at(moment: datetime, **changes: object) -> dict[str, object]:
    return {"started_at": moment, "completed_at": moment + timedelta(seconds=1)} | changes


async def erased(store: RequestStore, owner: str) -> tuple[int, int]:
    erasure = await store.erase(owner)
    return erasure.requests, erasure.dead_letters


async def purged(store: RequestStore, before: datetime, **options: Any) -> int:
    """Return how many rows of both tables went."""
    purge = await store.purge(before, **options)
    return purge.requests + purge.dead_letters


async def marks(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(erasures))]


async def letters_whole(engine: AsyncEngine) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(select(dead_letters))).mappings()]


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
    assert await erased(store, "tenant-a") == (5, 1)
    kept, tombstone = sorted(await rows(engine, requests), key=lambda row: str(row["created_by"]), reverse=True)
    assert kept["id"] == other.request_id
    assert (tombstone["id"], tombstone["state"], tombstone["created_by"]) == (
        running.request_id, "canceled", TOMBSTONE_OWNER,
    )  # fmt: skip
    assert await template_ids(engine) == {kept["template_id"]}
    assert await letters(engine) == ["tenant-b"]
    assert await erased(store, "tenant-a") == (0, 0)
    # the app answers the erased request at last
    late = await store.persist_completed([record(request_id=running.request_id)])
    assert late.skipped == 1
    assert await store.get_request(running.request_id) is None


async def test_an_owner_is_named_as_records_name_it(store: RequestStore, engine: AsyncEngine) -> None:
    await store.persist_completed([record(created_by=" a\0b ")])
    assert await erased(store, "a") == (0, 0)
    assert await erased(store, " a\0b ") == (1, 0)
    assert await rows(engine, requests) == []


async def test_nobodys_name_erases_nothing(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    await store.delete_request(new.request_id)
    await insert_request(engine, batch_id=new_request_id(), **in_state("completed"))
    assert await erased(store, TOMBSTONE_OWNER) == await erased(store, "  ") == (0, 0)
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
    await store.persist_completed([record(**at(OLD)) for _ in range(5)])
    async with engine.begin() as connection:
        await connection.execute(insert(dead_letters), [_letter() for _ in range(3)])
    gone = [await store.purge(CUT, limit=3) for _ in range(4)]
    assert gone == [
        Purge(requests_gone, letters_gone, remaining=left)
        for requests_gone, letters_gone, left in [(3, 0, True), (2, 1, True), (0, 2, False), (0, 0, False)]
    ]
    assert (await rows(engine, requests), await letters(engine)) == ([], [])


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_that_removes_nothing_is_refused(store: RequestStore, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await store.purge(NEW, limit=limit)


async def test_transactions_are_bounded(
    store: RequestStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "CHUNK", 4)
    await store.persist_completed([record(**at(OLD)) for _ in range(10)])
    async with engine.begin() as connection:
        await connection.execute(insert(dead_letters), [_letter() for _ in range(5)])
    assert await purged(store, CUT, limit=13) == 13
    assert await rows(engine, requests) == []
    assert len(await letters(engine)) == 2


def _letter() -> dict[str, object]:
    return {"request_id": new_request_id(), "created_by": "tenant-a", "error": "x", "payload": b"", "created_at": OLD}


async def test_an_erasure_goes_to_the_end_in_bounded_transactions(
    store: RequestStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "CHUNK", 4)
    await store.persist_completed([record() for _ in range(10)])
    async with engine.begin() as connection:
        await connection.execute(insert(dead_letters), [_letter() for _ in range(9)])
    assert await erased(store, "tenant-a") == (10, 9)
    assert (await rows(engine, requests), await letters(engine)) == ([], [])


async def test_rows_that_somebody_has_locked_are_passed_over(
    store: RequestStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_erase, "_PASSES", 2)
    monkeypatch.setattr(_erase, "_WRITER_POLLS", 2)
    locked, free = record(**at(OLD)), record(**at(OLD))
    await store.persist_completed([locked, free])
    async with engine.begin() as connection:
        await connection.execute(select(requests).where(requests.c.id == locked.request_id).with_for_update())
        assert await purged(store, CUT) == 1
        assert await erased(store, "tenant-a") == (0, 0)
    assert "call erase() again" in caplog.text
    assert (await one(engine, requests))["id"] == locked.request_id
    assert await erased(store, "tenant-a") == (1, 0)


async def test_rows_unlocked_meanwhile_are_erased_by_the_same_call(
    store: RequestStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_erase, "_PASSES", 10_000)
    given = record()
    await store.persist_completed([given])
    async with engine.connect() as connection:
        async with connection.begin():
            await connection.execute(select(requests).with_for_update())
            erasing = asyncio.create_task(erased(store, "tenant-a"))
            while not await marks(engine):
                await asyncio.sleep(0.01)
        assert await asyncio.wait_for(erasing, 60) == (1, 0)


@pytest.mark.both_schemas("RequestStore.erase")
async def test_what_an_erased_owner_began_before_does_not_come_back(store: RequestStore, engine: AsyncEngine) -> None:
    erasure = await store.erase("tenant-a")
    before, at_it, after = (erasure.erased_at + timedelta(seconds=seconds) for seconds in (-1, 0, 1))
    gone = [record(**at(before)), record(**at(at_it)), record(**at(before, status_code=500))]
    kept = [record(**at(after)), record(**at(before, created_by="tenant-b"))]

    done = await store.persist_completed([*gone, *kept])

    assert (done.inserted, done.skipped) == (2, 3)
    assert done.written == {given.request_id for given in kept}
    assert {row["id"] for row in await rows(engine, requests)} == done.written
    assert await template_ids(engine) == done.written
    for given in (*gone, *kept):
        await store.bury(given, sqlstate="23514", error="refused")
    assert sorted(await letters(engine)) == ["tenant-a", "tenant-b"]


async def test_a_second_erasure_moves_the_mark(store: RequestStore, engine: AsyncEngine) -> None:
    first = await store.erase("tenant-ü")
    given = record(created_by="tenant-ü", **at(first.erased_at + timedelta(microseconds=1)))
    await store.persist_completed([given])
    second = await store.erase(" tenant-ü ")
    assert (second.requests, second.dead_letters) == (1, 0)
    assert second.erased_at > first.erased_at
    assert (await store.persist_completed([given])).skipped == 1
    assert await marks(engine) == [(sha256("tenant-ü".encode()).hexdigest(), second.erased_at)]


async def test_a_letter_of_an_erased_owner_that_is_replayed_stores_nothing(
    store: RequestStore, engine: AsyncEngine
) -> None:
    given = record()
    await store.bury(given, sqlstate="23514", error="refused")
    kept = await letters_whole(engine)
    await store.erase("tenant-a")
    async with engine.begin() as connection:
        # as out of a backup
        await connection.execute(insert(dead_letters), kept)
    assert await DeadLetters(engine).replay() == (1, 0)
    assert await rows(engine, requests) == []


async def test_a_batch_that_is_being_written_when_its_owner_is_erased_goes_too(
    store: RequestStore, engine: AsyncEngine
) -> None:
    given = record()
    asked: list[str] = []

    def ask(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.extend([statement] if "pg_locks" in statement else [])

    event.listen(engine.sync_engine, "before_cursor_execute", ask)
    async with engine.connect() as connection:
        async with connection.begin():
            # what a writer's statement leaves before it commits: it read no mark
            await connection.execute(
                insert(requests).values(
                    id=given.request_id,
                    model="m",
                    created_by="tenant-a",
                    service_tier="priority",
                    **in_state("completed"),
                )
            )
            erasing = asyncio.create_task(erased(store, "tenant-a"))
            # who is writing is asked, and asked again: it is not enough to have begun
            while len(asked) < 2 and not erasing.done():
                await asyncio.sleep(0.01)
        event.remove(engine.sync_engine, "before_cursor_execute", ask)
        assert await asyncio.wait_for(erasing, 60) == (1, 0)
    assert await rows(engine, requests) == []


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
    assert await purged(store, CUT) == 3
    left = await rows(engine, requests)
    assert {row["id"] for row in left if row["created_at"] == OLD} == set(stay)
    assert {row["created_at"] for row in left} == {OLD, CUT, NEW}
    assert len(await template_ids(engine)) == 2
    assert len(await letters(engine)) == 1


async def test_the_remains_of_deletions_go_with_age(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    await store.delete_request(new.request_id)
    assert await purged(store, CUT) == 0
    assert await purged(store, datetime.now(UTC) + timedelta(hours=1)) == 1
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(requests))).scalar_one() == 0


async def test_a_naive_time_is_refused(store: RequestStore) -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        await store.purge(datetime(2025, 1, 1))  # noqa: DTZ001 -- the mistake itself

"""persist_completed gives each record its row, read back with plain SQL."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import CompletedRequest, RequestStore, new_request_id
from rwriter._values.keys import digest
from rwriter.schema import ACTIVE_STATES, FINISHED_STATES, NIL_DAEMON, STATES, request_templates, requests
from tests.support.records import STARTED, TOOK, new_request, record
from tests.support.rows import Counts, in_state, insert_request, now_of, one, rows, snapshot, template_ids, template_of

INSERTED = Counts(inserted=1, updated=0, skipped=0)
UPDATED = Counts(inserted=0, updated=1, skipped=0)
SKIPPED = Counts(inserted=0, updated=0, skipped=1)

# the body holds what JSON must escape and what it must not
AWKWARD_BODY = '{"error":"grüß dich 你好 🎉 \\"x\\" a/b <&>\\n"}\n\t\x01\x1f\x7f\u2028'
AWKWARD_BODY_IN_JSON = r'"{\"error\":\"grüß dich 你好 🎉 \\\"x\\\" a/b <&>\\n\"}\n\t\u0001\u001f' + '\x7f\u2028"'
TIERS = (None, "auto", "default", "flex", "priority", "background")


async def test_a_new_id_becomes_a_completed_row_with_every_column_set(store: RequestStore, engine: AsyncEngine) -> None:
    before = await now_of(engine)
    given = record(request_body='{"ü":1}', response_body="ä🎉", custom_id="chatcmpl-7")

    assert await store.persist_completed([given]) == INSERTED

    row = dict(await one(engine, requests))
    template = dict(await one(engine, request_templates))
    assert before <= row.pop("updated_at") <= await now_of(engine)
    del row["xmin"]
    assert row == {
        "id": given.request_id,
        "batch_id": None,
        "template_id": template["id"],
        "model": "gpt-test",
        "custom_id": "chatcmpl-7",
        "state": "completed",
        "retry_attempt": 0,
        "not_before": None,
        "daemon_id": NIL_DAEMON,
        "claimed_at": STARTED,
        "started_at": STARTED,
        "completed_at": STARTED + TOOK,
        "failed_at": None,
        "canceled_at": None,
        "response_status": 200,
        "response_body": "ä🎉",
        "response_size": 6,
        "error": None,
        "routed_model": None,
        "service_tier": "priority",
        "created_by": "tenant-a",
        "created_at": STARTED,
        "input_tokens": None,
        "output_tokens": None,
        "cached_input_tokens": None,
        "reasoning_tokens": None,
        "first_token_at": None,
    }


async def test_an_inserted_row_has_a_template_with_every_column_set(store: RequestStore, engine: AsyncEngine) -> None:
    before = await now_of(engine)
    await store.persist_completed([record(request_body='{"ü":1}', custom_id="chatcmpl-7")])

    template = dict(await one(engine, request_templates))
    after = await now_of(engine)
    assert before <= template.pop("created_at") <= after
    assert before <= template.pop("updated_at") <= after
    assert template.pop("id").version == 7
    del template["xmin"]
    assert template == {
        "file_id": None,
        "custom_id": None,
        "endpoint": "",
        "method": "POST",
        "path": "/v1/responses",
        "model": "gpt-test",
        "api_key": digest("sk-test"),
        "body": '{"ü":1}',
        "body_byte_size": 8,
        "line_number": 0,
        "metadata": None,
    }


@pytest.mark.both_schemas("RequestStore.persist_completed")
async def test_a_begun_row_is_finished_and_keeps_what_it_began_with(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    begun, begun_template = dict(await one(engine, requests)), dict(await one(engine, request_templates))
    ended = begun["started_at"] + timedelta(seconds=3)

    assert await store.persist_completed([record(request_id=new.request_id, completed_at=ended)]) == UPDATED

    finished = dict(await one(engine, requests))
    for name in ("xmin", "updated_at"):
        assert finished.pop(name) != begun.pop(name)
    changed = {name: value for name, value in finished.items() if value != begun[name]}
    assert changed == {
        "state": "completed",
        "completed_at": ended,
        "response_status": 200,
        "response_body": '{"object":"response"}',
        "response_size": 21,
        "not_before": None,
    }
    assert dict(await one(engine, request_templates)) == begun_template


async def test_a_custom_id_is_written_to_a_begun_row(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    await store.persist_completed([record(request_id=new.request_id, custom_id="chatcmpl-ü")])
    assert (await one(engine, requests))["custom_id"] == "chatcmpl-ü"


async def test_a_record_without_custom_id_leaves_the_one_a_row_has(store: RequestStore, engine: AsyncEngine) -> None:
    row = await insert_request(engine, **in_state("processing", service_tier="priority", custom_id="early"))
    assert await store.persist_completed([record(request_id=row)]) == UPDATED
    assert (await one(engine, requests))["custom_id"] == "early"


async def test_custom_ids_need_not_be_unique(store: RequestStore, engine: AsyncEngine) -> None:
    result = await store.persist_completed([record(custom_id="same"), record(custom_id="same")])
    assert result.inserted == 2
    assert [row["custom_id"] for row in await rows(engine, requests)] == ["same", "same"]


@pytest.mark.parametrize("begun", [False, True], ids=["inserted", "updated"])
async def test_only_2xx_is_completed_and_all_else_fails_with_the_exact_envelope(
    store: RequestStore, engine: AsyncEngine, begun: bool
) -> None:
    statuses = (100, 199, 200, 201, 204, 299, 300, 302, 400, 404, 429, 499, 500, 503, 999)
    batch = [record(status_code=status, response_body=AWKWARD_BODY) for status in statuses]
    if begun:
        for given in batch:
            await insert_request(engine, **in_state("processing", id=given.request_id, service_tier="priority"))

    result = await store.persist_completed(batch)

    assert (result.updated if begun else result.inserted) == len(statuses)
    for row in await rows(engine, requests):
        expected = terminal_columns(row["response_status"])
        assert {name: row[name] for name in expected} == expected
        if row["error"] is not None:
            assert json.loads(row["error"])["details"]["body"] == AWKWARD_BODY
    assert {row["response_status"] for row in await rows(engine, requests)} == set(statuses)


def terminal_columns(status: int) -> dict[str, Any]:
    ended = STARTED + TOOK
    envelope = f'{{"type":"NonRetriableHttpStatus","details":{{"status":{status},"body":{AWKWARD_BODY_IN_JSON}}}}}'
    columns: dict[str, Any] = (
        {"state": "completed", "completed_at": ended, "failed_at": None, "error": None}
        if status in range(200, 300)
        else {"state": "failed", "completed_at": None, "failed_at": ended, "error": envelope}
    )
    return columns | {"response_body": AWKWARD_BODY, "response_size": len(AWKWARD_BODY.encode())}


async def test_an_empty_body_is_stored_as_empty_and_not_as_null(store: RequestStore, engine: AsyncEngine) -> None:
    await store.persist_completed([record(status_code=204, response_body="", request_body="")])
    row = await one(engine, requests)
    assert (row["response_body"], row["response_size"]) == ("", 0)
    template = await one(engine, request_templates)
    assert (template["body"], template["body_byte_size"]) == ("", 0)


async def test_durations_are_the_records_own_whatever_its_time_zone(store: RequestStore, engine: AsyncEngine) -> None:
    for hours in (0, -7, 5.5):
        zone = timezone(timedelta(hours=hours))
        given = record(started_at=STARTED.astimezone(zone), completed_at=(STARTED + TOOK).astimezone(zone))
        await store.persist_completed([given])
        row = await one(engine, requests, given.request_id)
        assert (row["started_at"], row["completed_at"]) == (STARTED, STARTED + TOOK)


@pytest.mark.parametrize(("status", "column"), [(200, "completed_at"), (500, "failed_at")])
async def test_a_row_never_ends_before_it_started_by_another_hosts_clock(
    store: RequestStore, engine: AsyncEngine, status: int, column: str
) -> None:
    late = STARTED + timedelta(hours=1)
    row = await insert_request(engine, **in_state("processing", started_at=late, service_tier="priority"))
    assert await store.persist_completed([record(request_id=row, status_code=status)]) == UPDATED
    assert (await one(engine, requests))[column] == late


@pytest.mark.parametrize("state", FINISHED_STATES)
async def test_a_finished_row_is_skipped_and_untouched(store: RequestStore, engine: AsyncEngine, state: str) -> None:
    ids = [await insert_request(engine, **in_state(state, service_tier=tier)) for tier in TIERS]
    await assert_skipped(store, engine, ids)


@pytest.mark.parametrize("state", ACTIVE_STATES)
async def test_a_row_in_flight_of_another_tier_is_the_daemons(
    store: RequestStore, engine: AsyncEngine, state: str
) -> None:
    others = [tier for tier in TIERS if tier != "priority"]
    ids = [await insert_request(engine, **in_state(state, service_tier=tier)) for tier in others]
    await assert_skipped(store, engine, ids)


async def test_a_batched_row_is_the_daemons_even_with_the_realtime_tier(
    store: RequestStore, engine: AsyncEngine
) -> None:
    batched = {"batch_id": uuid.uuid4(), "service_tier": "priority"}
    ids = [await insert_request(engine, **in_state(state, **batched)) for state in STATES]
    await assert_skipped(store, engine, ids)


async def assert_skipped(store: RequestStore, engine: AsyncEngine, ids: list[uuid.UUID]) -> None:
    before = await snapshot(engine)
    for status in (200, 500):
        late = [record(request_id=i, status_code=status, custom_id="late") for i in ids]
        assert await store.persist_completed(late) == Counts(inserted=0, updated=0, skipped=len(ids))
    assert await snapshot(engine) == before


@pytest.mark.parametrize("begun", [False, True], ids=["inserted", "updated"])
async def test_the_first_terminal_state_wins_for_ever(store: RequestStore, engine: AsyncEngine, begun: bool) -> None:
    ids = [new_request_id(), new_request_id()]
    if begun:
        for request_id in ids:
            await store.create_realtime(new_request(request_id=request_id))
    firsts = [record(request_id=ids[0], status_code=200), record(request_id=ids[1], status_code=500)]
    await store.persist_completed(firsts)
    await assert_skipped(store, engine, ids)


@pytest.mark.both_variants
async def test_a_redelivery_of_a_whole_batch_changes_nothing(store: RequestStore, engine: AsyncEngine) -> None:
    begun = new_request()
    await store.create_realtime(begun)
    batch = [record(), record(status_code=404), record(request_id=begun.request_id)]
    assert await store.persist_completed(batch) == Counts(inserted=2, updated=1, skipped=0)
    before = await snapshot(engine)
    assert await store.persist_completed(batch) == Counts(inserted=0, updated=0, skipped=3)
    assert await snapshot(engine) == before


@pytest.mark.both_schemas("RequestStore.persist_completed")
async def test_a_mixed_batch_treats_each_record_by_its_own_row(store: RequestStore, engine: AsyncEngine) -> None:
    begun = new_request()
    await store.create_realtime(begun)
    done = await insert_request(engine, **in_state("failed", service_tier="priority"))
    flex = await insert_request(engine, **in_state("processing"))
    fresh, failed, finished = record(), record(status_code=503), record(request_id=begun.request_id)
    batch = [record(request_id=flex), finished, fresh, record(request_id=done), failed, fresh]
    untouched = await rows(engine, requests, done, flex)
    template_before = await template_of(engine, begun.request_id)

    assert await store.persist_completed(batch) == Counts(inserted=2, updated=1, skipped=3)

    assert await rows(engine, requests, done, flex) == untouched
    states = {row["id"]: row["state"] for row in await rows(engine, requests)}
    assert states[fresh.request_id] == states[begun.request_id] == "completed"
    assert states[failed.request_id] == "failed"
    assert await template_of(engine, begun.request_id) == template_before
    templates = {row["template_id"] for row in await rows(engine, requests)} - {None}
    assert await template_ids(engine) == templates
    assert len(templates) == 3


async def test_of_an_id_given_twice_the_first_record_is_stored(store: RequestStore, engine: AsyncEngine) -> None:
    first = record(response_body="first", status_code=418)
    rest = [record(request_id=first.request_id, response_body="second"), record(request_id=first.request_id)]
    assert await store.persist_completed([first, *rest]) == Counts(inserted=1, updated=0, skipped=2)
    row = await one(engine, requests)
    assert (row["response_body"], row["state"]) == ("first", "failed")
    assert await template_ids(engine) == {row["template_id"]}


async def test_a_begun_id_given_twice_is_updated_once_by_the_first(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    twice = [record(request_id=new.request_id, response_body=body) for body in ("first", "second")]
    assert await store.persist_completed(twice) == Counts(inserted=0, updated=1, skipped=1)
    assert (await one(engine, requests))["response_body"] == "first"


async def test_a_batch_of_skipped_and_updated_records_makes_no_template(
    store: RequestStore, engine: AsyncEngine
) -> None:
    begun = await insert_request(engine, **in_state("processing", service_tier="priority"))
    done = await insert_request(engine, **in_state("completed", service_tier="priority"))
    result = await store.persist_completed([record(request_id=begun), record(request_id=done)])
    assert result == Counts(inserted=0, updated=1, skipped=1)
    assert await template_ids(engine) == set()


@pytest.mark.parametrize("empty", [[], ()])
async def test_an_empty_call_stores_nothing(
    store: RequestStore, engine: AsyncEngine, empty: list[CompletedRequest]
) -> None:
    assert await store.persist_completed(empty) == Counts(inserted=0, updated=0, skipped=0)
    assert await snapshot(engine) == [[], []]


async def test_a_generator_is_stored_whole(store: RequestStore, engine: AsyncEngine) -> None:
    def generated() -> Iterator[CompletedRequest]:
        for number in range(3):
            yield record(model=f"model-{number}")

    assert await store.persist_completed(generated()) == Counts(inserted=3, updated=0, skipped=0)
    assert [row["model"] for row in await rows(engine, requests)] == ["model-0", "model-1", "model-2"]


@pytest.mark.plain_only
async def test_ids_of_every_version_are_stored(store: RequestStore, engine: AsyncEngine) -> None:
    ids = {uuid.uuid1(), uuid.uuid4(), uuid.uuid5(uuid.NAMESPACE_URL, "x"), uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)}
    assert (await store.persist_completed(record(request_id=i) for i in ids)).inserted == len(ids)
    assert {row["id"] for row in await rows(engine, requests)} == ids
    assert await template_ids(engine) == ids


async def test_written_names_the_rows_that_were_inserted_or_updated_and_no_other(store: RequestStore) -> None:
    begun, done, fresh = new_request(), record(), record()
    await store.create_realtime(begun)
    await store.persist_completed([done])
    batch = [fresh, done, record(request_id=begun.request_id), fresh]
    result = await store.persist_completed(batch)
    assert result == Counts(inserted=1, updated=1, skipped=2)
    assert result.written == {fresh.request_id, begun.request_id}
    assert (await store.persist_completed(batch)).written == frozenset()


async def test_a_template_has_its_requests_id(store: RequestStore, engine: AsyncEngine) -> None:
    begun, done = new_request(), record()
    await store.create_realtime(begun)
    await store.persist_completed([done])
    ids = {begun.request_id, done.request_id}
    assert await template_ids(engine) == ids
    assert {row["template_id"] for row in await rows(engine, requests)} == ids


@pytest.mark.plain_only
async def test_a_row_begun_without_a_template_of_its_own_is_finished_without_one(
    store: RequestStore, engine: AsyncEngine
) -> None:
    begun = new_request()
    await store.create_realtime(begun)
    async with engine.begin() as connection:
        await connection.execute(delete(request_templates))
    assert await store.persist_completed([record(request_id=begun.request_id)]) == Counts(0, 1, 0)
    assert await template_ids(engine) == set()

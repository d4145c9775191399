"""Finding a request under the id its upstream gave it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore
from rwriter.schema import request_templates
from rwriter.store import detail_of
from rwriter.testing import TestDbEngines
from tests.support.records import STARTED, new_request, record, renamed
from tests.support.rows import in_state, insert_request


@pytest.mark.both_schemas("RequestStore.find_request")
async def test_an_owner_finds_a_request_under_its_clients_id(store: RequestStore) -> None:
    stored = record(custom_id="chatcmpl-1")
    await store.persist_completed([stored, record(custom_id="chatcmpl-2"), record()])
    found = await store.find_request("chatcmpl-1", "tenant-a")
    assert found == await store.get_request(stored.request_id)
    assert found is not None


@pytest.mark.parametrize(
    ("custom_id", "owner"), [("chatcmpl-1", "tenant-b"), ("chatcmpl-9", "tenant-a"), ("", "tenant-a")]
)
async def test_nobody_finds_anothers_or_none(store: RequestStore, custom_id: str, owner: str) -> None:
    await store.persist_completed([record(custom_id="chatcmpl-1")])
    assert await store.find_request(custom_id, owner) is None


async def test_of_several_with_one_client_id_the_latest_is_found_each_within_its_owner(store: RequestStore) -> None:
    latest = record(custom_id="x", started_at=STARTED + timedelta(hours=1))
    others = [
        record(custom_id="x", created_by="tenant-b", started_at=STARTED + timedelta(hours=2)),
        record(custom_id="x"),
    ]
    await store.persist_completed([latest, *others])
    found = await store.find_request("x", "tenant-a")
    assert found is not None
    assert found.id == latest.request_id


async def test_a_requests_own_id_goes_before_those_of_clients(store: RequestStore) -> None:
    own, latest = record(), record(custom_id="x")
    await store.persist_completed([own, latest, foreign := record(created_by="tenant-b")])
    for request_id, expected in ((own.request_id, own), (foreign.request_id, latest), (latest.request_id, latest)):
        found = await store.find_request("x", "tenant-a", request_id=request_id)
        assert found is not None
        assert found.id == expected.request_id
    assert await store.find_request("y", "tenant-a", request_id=foreign.request_id) is None


async def test_a_batchs_row_is_not_found(store: RequestStore, engine: AsyncEngine) -> None:
    batch = new_request().request_id
    await insert_request(engine, batch_id=batch, custom_id="line-1", **in_state("completed"))
    assert await store.find_request("line-1", "tenant-a") is None


@pytest.mark.both_schemas("RequestStore.find_request")
async def test_the_first_id_that_a_client_saw_finds_the_request_too(store: RequestStore) -> None:
    stored = renamed()
    await store.persist_completed([stored, record(custom_id="resp_other"), record()])
    for known in ("resp_first", "resp_last"):
        found = await store.find_request(known, "tenant-a")
        assert found == await store.get_request(stored.request_id)
        assert await store.find_request(known, "tenant-b") is None
    assert await store.delete_request(stored.request_id)
    assert await store.find_request("resp_first", "tenant-a") is None


async def test_a_request_that_was_begun_is_found_by_the_first_id_too(store: RequestStore) -> None:
    begun = [new_request(created_by="tenant-a") for _ in range(3)]
    for one in begun:
        await store.create_realtime(one)
    facts = {"a": 1}
    done = [
        renamed(request_id=begun[0].request_id),
        renamed(request_id=begun[1].request_id, first_id="resp_before", metadata=facts),
        record(request_id=begun[2].request_id, metadata=facts),
    ]
    await store.persist_completed(done)
    found = [await store.find_request(known, "tenant-a") for known in ("resp_first", "resp_before")]
    assert [one and (one.id, one.metadata) for one in found] == [
        (begun[0].request_id, None),
        (begun[1].request_id, facts),
    ]
    other = await store.get_request(begun[2].request_id)
    assert other is not None
    assert other.metadata == facts


async def test_an_id_goes_before_one_that_another_answer_had_first(store: RequestStore) -> None:
    later = renamed(first_id="x", started_at=STARTED + timedelta(hours=1))
    await store.persist_completed([own := record(custom_id="x"), later])
    found = await store.find_request("x", "tenant-a")
    assert found is not None
    assert found.id == own.request_id


async def test_the_id_of_a_files_line_is_no_first_id(store: RequestStore, engine: AsyncEngine) -> None:
    line = {"id": new_request().request_id, "file_id": new_request().request_id, "custom_id": "line-1"}
    async with engine.begin() as connection:
        texts = dict.fromkeys(("endpoint", "method", "path", "model", "api_key"), "")
        await connection.execute(insert(request_templates).values(**line, **texts))
    await insert_request(engine, template_id=line["id"], created_by="tenant-a", **in_state("completed"))
    assert await store.find_request("line-1", "tenant-a") is None


async def test_ids_that_no_text_column_can_hold_are_just_unknown(store: RequestStore) -> None:
    assert await store.find_request("a\0b\ud800", "ten\0ant") is None


async def test_a_record_shows_the_row_it_will_be(store: RequestStore) -> None:
    for pending in (record(), record(status_code=429, response_body='{"error":{}}', created_by="ü")):
        expected = detail_of(pending)
        await store.persist_completed([pending])
        assert await store.get_request(pending.request_id) == expected


async def test_only_a_second_engine_is_a_replica(engine: AsyncEngine, rwriter_engines: TestDbEngines) -> None:
    assert not RequestStore(engine).has_replica
    assert not RequestStore(rwriter_engines).has_replica

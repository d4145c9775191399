"""create_realtime begins a row with its template, once for each id, read back with plain SQL."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestExists, RequestStore
from rwriter._values.keys import digest
from rwriter.schema import NEVER, NIL_DAEMON, requests
from tests.support.records import new_request, record
from tests.support.rows import now_of, one, snapshot, template_of


@pytest.mark.both_schemas("RequestStore.create_realtime")
async def test_create_realtime_leaves_a_processing_row_with_its_template(
    store: RequestStore, engine: AsyncEngine
) -> None:
    before = await now_of(engine)
    new = new_request(body='{"ü":1}')
    await store.create_realtime(new)
    after = await now_of(engine)

    row = await one(engine, requests)
    assert before <= row["started_at"] == row["claimed_at"] == row["created_at"] <= after
    wanted = {"id": new.request_id, "model": "gpt-5-mini", "state": "processing", "daemon_id": NIL_DAEMON}
    wanted |= {"service_tier": "priority", "created_by": "tenant-b", "batch_id": None, "retry_attempt": 0}
    wanted |= {"not_before": NEVER}
    wanted |= dict.fromkeys(("response_status", "response_body", "error", "completed_at", "failed_at", "custom_id"))
    assert {name: row[name] for name in wanted} == wanted
    template = await template_of(engine, new.request_id)
    assert template["id"].version == 7
    texts = ("endpoint", "method", "path", "model", "api_key", "body", "body_byte_size")
    assert [template[name] for name in texts] == [
        "https://upstream.example", "PUT", "/v1/chat/completions", "gpt-5-mini", digest("sk-another-key"),
        '{"ü":1}', 8,
    ]  # fmt: skip


@pytest.mark.both_schemas("RequestStore.create_realtime")
async def test_create_realtime_twice_raises_and_leaves_no_orphan_template(
    store: RequestStore, engine: AsyncEngine
) -> None:
    new = new_request()
    await store.create_realtime(new)
    before = await snapshot(engine)
    with pytest.raises(RequestExists, match=str(new.request_id)):
        await store.create_realtime(new_request(request_id=new.request_id, body="another"))
    assert await snapshot(engine) == before


async def test_create_realtime_of_a_finished_id_raises_and_changes_nothing(
    store: RequestStore, engine: AsyncEngine
) -> None:
    given = record()
    await store.persist_completed([given])
    before = await snapshot(engine)
    with pytest.raises(RequestExists):
        await store.create_realtime(new_request(request_id=given.request_id))
    assert await snapshot(engine) == before

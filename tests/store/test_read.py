"""get_request and list_requests: what readers see, which rows a filter finds, and where the question is asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import DbEngines, RequestFilter, RequestStore, new_request_id
from rwriter._database_errors import sqlstate_of
from rwriter.engines import in_schema
from rwriter.engines._urls import connect_arguments
from rwriter.pytest_plugin import Databases
from rwriter.schema import STATES, TOMBSTONE_OWNER, request_templates, requests
from rwriter.testing import TestDbEngines
from tests.support.listing import INSTANTS, MODELS, expected, fill, ids, template_of
from tests.support.records import STARTED, TOOK, new_request, record
from tests.support.rows import in_state, insert_request, rows


@pytest.fixture
async def filled(store: RequestStore, engine: AsyncEngine) -> RequestStore:
    """The store over a table with rows of every kind."""
    await fill(engine)
    return store


@pytest.mark.both_schemas("RequestStore.get_request")
async def test_a_stored_request_is_read_back_with_every_field(store: RequestStore) -> None:
    stored = record(status_code=404, response_body='{"error":"ü"}', custom_id="chatcmpl-1")
    await store.persist_completed([stored])
    detail = await store.get_request(stored.request_id)
    assert detail is not None
    assert msgspec.structs.asdict(detail) == {
        "id": stored.request_id,
        "batch_id": None,
        "model": "gpt-test",
        "status": "failed",
        "created_at": STARTED,
        "started_at": STARTED,
        "completed_at": None,
        "failed_at": STARTED + TOOK,
        "duration_ms": 1234.5,
        "response_status": 404,
        "service_tier": "priority",
        "created_by": "tenant-a",
        "path": "/v1/responses",
        **dict.fromkeys(("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")),
        **dict.fromkeys(("first_token_at", "metadata")),
        "body": '{"input":"hello"}',
        "response_body": '{"error":"ü"}',
        "error": '{"type":"NonRetriableHttpStatus","details":{"status":404,"body":"{\\"error\\":\\"ü\\"}"}}',
    }


async def test_a_page_holds_the_same_fields_less_the_bodies_and_the_error(store: RequestStore) -> None:
    stored = record(status_code=404)
    await store.persist_completed([stored])
    detail = await store.get_request(stored.request_id)
    assert detail is not None
    fields = msgspec.structs.asdict(detail)
    for name in ("body", "response_body", "error"):
        del fields[name]
    (summary,) = (await store.list_requests()).data
    assert msgspec.structs.asdict(summary) == fields


async def test_a_begun_request_is_read_with_its_body_and_no_duration(store: RequestStore) -> None:
    new = new_request()
    await store.create_realtime(new)
    detail = await store.get_request(new.request_id)
    assert detail is not None
    assert (detail.status, detail.body, detail.path) == ("processing", new.body, new.path)
    assert (detail.duration_ms, detail.response_body, detail.error) == (None, None, None)


async def test_the_text_of_a_detail_shows_no_body(store: RequestStore) -> None:
    stored = record(request_body="prompt-secret", response_body="answer-secret", status_code=500)
    await store.persist_completed([stored])
    detail = await store.get_request(stored.request_id)
    assert "secret" not in repr(detail)
    assert "secret" not in str(detail)


async def test_a_row_without_template_is_read_with_empty_path_and_body(
    store: RequestStore, engine: AsyncEngine
) -> None:
    row = await insert_request(engine, **in_state("completed"))
    detail = await store.get_request(row)
    assert detail is not None
    assert (detail.path, detail.body, detail.response_body) == ("", "", "first")
    assert [each.path for each in (await store.list_requests()).data] == [""]


@pytest.mark.parametrize("state", STATES)
async def test_rows_of_other_tiers_are_read_in_every_state(
    store: RequestStore, engine: AsyncEngine, state: str
) -> None:
    template_id = new_request_id()
    async with engine.begin() as connection:
        await connection.execute(insert(request_templates), template_of(template_id, path="/v1/files"))
    row = await insert_request(engine, **in_state(state, template_id=template_id, service_tier="flex"))
    detail = await store.get_request(row)
    assert detail is not None
    assert (detail.status, detail.service_tier, detail.created_by) == (state, "flex", "tenant-d")
    assert (detail.path, detail.body) == ("/v1/files", "asked")
    # these rows began and ended in the same instant; a canceled or unfinished one has no duration at all
    ended = state in {"completed", "failed"}
    assert detail.duration_ms == (None if detail.started_at is None or not ended else 0.0)


async def test_rows_of_a_batch_and_unknown_ids_are_read_by_nobody(store: RequestStore, engine: AsyncEngine) -> None:
    batched = [await insert_request(engine, **in_state(state, batch_id=new_request_id())) for state in STATES]
    blanked = await insert_request(engine, **in_state("canceled", created_by=TOMBSTONE_OWNER))
    for request_id in (*batched, blanked, new_request_id()):
        for consistent in (False, True):
            assert await store.get_request(request_id, consistent=consistent) is None
    for asked in (RequestFilter(), RequestFilter(created_by=TOMBSTONE_OWNER), RequestFilter(active_first=True)):
        page = await store.list_requests(asked)
        assert (page.data, page.total_count, page.next_cursor) == ([], 0, None)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"created_by": "tenant-b"},
        {"created_by": "nobody"},
        *({"status": state} for state in STATES),
        {"models": MODELS[1:]},
        {"models": []},
        {"service_tiers": ["flex", "priority"]},
        {"service_tiers": [None]},
        {"service_tiers": [None, "auto"]},
        {"service_tiers": []},
        {"created_after": INSTANTS[2]},
        {"created_before": INSTANTS[1]},
        {"created_after": INSTANTS[1], "created_before": INSTANTS[1]},
        {"created_after": INSTANTS[2], "created_before": INSTANTS[1]},
        {"created_by": "tenant-a", "status": "completed", "models": MODELS, "service_tiers": ["priority", None],
         "created_after": INSTANTS[0], "created_before": INSTANTS[3]},
    ],
    ids=str,
)  # fmt: skip
async def test_a_filter_finds_exactly_the_rows_that_match(
    filled: RequestStore, engine: AsyncEngine, asked: dict[str, Any]
) -> None:
    table = await rows(engine, requests)
    for active_first in (False, True):
        given_filter = RequestFilter(**asked, active_first=active_first, limit=1000)
        page = await filled.list_requests(given_filter)
        assert ids(page) == expected(table, given_filter)
        assert (page.total_count, page.total_is_estimate) == (len(page.data), False)


@pytest.mark.parametrize(
    ("field", "value"),
    [("limit", 0), ("limit", 1001), ("limit", -1), ("offset", -1), ("status", "done"), ("status", "x' OR 1=1 --"),
     ("created_after", datetime(2026, 1, 1)), ("created_before", datetime(2026, 1, 1))],  # noqa: DTZ001 -- refused
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        RequestFilter(**{field: value})


@pytest.mark.parametrize("field", ["models", "service_tiers"])
def test_one_string_is_no_list_of_strings(field: str) -> None:
    value: Any = {field: "flex"}
    with pytest.raises(TypeError, match=field):
        RequestFilter(**value)


@pytest.mark.parametrize("limit", [1, 1000])
async def test_the_bounds_of_limit_are_good_limits(filled: RequestStore, limit: int) -> None:
    page = await filled.list_requests(RequestFilter(limit=limit))
    assert len(page.data) == min(limit, page.total_count)


async def test_text_that_the_database_cannot_hold_finds_nothing(filled: RequestStore) -> None:
    for text in ("\0", "\ud800"):
        assert (await filled.list_requests(RequestFilter(created_by=text))).data == []
        assert (await filled.list_requests(RequestFilter(models=[text]))).data == []
        assert (await filled.list_requests(RequestFilter(service_tiers=[text]))).data == []


@pytest.fixture
def elsewhere(_rwriter_databases: Databases, schema: str | None) -> Iterator[AsyncEngine]:
    """An engine on a second database: what is written to one of the two is not in the other."""
    name = _rwriter_databases.create(_rwriter_databases.template(schema))
    url, connect_args = connect_arguments(_rwriter_databases.url(name))
    yield in_schema(create_async_engine(url, connect_args=connect_args, poolclass=NullPool), schema)
    _rwriter_databases.drop(name)


@pytest.mark.both_schemas("RequestStore.get_request", "RequestStore.list_requests")
async def test_reads_ask_the_read_engine_and_consistent_ones_the_primary(
    engine: AsyncEngine, elsewhere: AsyncEngine
) -> None:
    on_primary, on_replica = record(), record()
    await RequestStore(engine).persist_completed([on_primary])
    await RequestStore(elsewhere).persist_completed([on_replica])
    store = RequestStore(DbEngines(engine, elsewhere))
    for consistent, here, there in ((False, on_replica, on_primary), (True, on_primary, on_replica)):
        assert await store.get_request(here.request_id, consistent=consistent) is not None
        assert await store.get_request(there.request_id, consistent=consistent) is None
        assert ids(await store.list_requests(consistent=consistent)) == [here.request_id]


async def test_a_write_through_the_read_engine_of_a_test_provider_fails(
    engines: TestDbEngines, engine: AsyncEngine
) -> None:
    misrouted = RequestStore(engines.read)
    with pytest.raises(DBAPIError) as refused:
        await misrouted.persist_completed([record()])
    assert sqlstate_of(refused.value) == "25006"
    assert await rows(engine, requests) == []

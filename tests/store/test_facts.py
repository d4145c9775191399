"""Tokens, the first token's time and metadata: written, read back, searched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import msgspec
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import NewRequest, RequestFilter, RequestStore, new_request_id
from rwriter.schema import request_templates, requests
from rwriter.store import detail_of
from tests.support.listing import ids
from tests.support.records import STARTED, TOOK, new_request, record
from tests.support.rows import in_state, insert_request, one

FACTS: Final[dict[str, Any]] = {
    "input_tokens": 11,
    "output_tokens": 2**31 - 1,
    "cached_input_tokens": 0,
    "reasoning_tokens": 7,
    "first_token_at": STARTED + TOOK / 2,
    "metadata": {"trace": "ü", "try": 2, "share": 0.5, "last": True, "parent": None},
}


@pytest.mark.both_schemas("RequestStore.persist_completed")
@pytest.mark.parametrize("begun", [False, True], ids=["inserted", "updated"])
async def test_they_are_written_and_read_back(store: RequestStore, begun: bool) -> None:
    given, plain = record(**FACTS), record()
    if begun:
        for each in (given, plain):
            await store.create_realtime(NewRequest.before(each))
    await store.persist_completed([given, plain])

    for each, facts in ((given, FACTS), (plain, dict.fromkeys(FACTS))):
        detail = await store.get_request(each.request_id)
        assert detail is not None
        # a begun row starts by the server's clock, and no first token comes before
        first = {"first_token_at": detail.started_at} if begun and each is given else {}
        assert {name: getattr(detail, name) for name in FACTS} == facts | first
        (summary,) = [row for row in (await store.list_requests()).data if row.id == each.request_id]
        whole = msgspec.structs.asdict(detail)
        assert msgspec.structs.asdict(summary) == {
            name: value for name, value in whole.items() if name not in {"body", "response_body", "error"}
        }
    if not begun:
        assert await store.get_request(given.request_id) == detail_of(given)


async def test_a_begun_rows_own_facts_stay_where_the_record_has_none(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    async with engine.begin() as connection:
        await connection.execute(update(requests).values(input_tokens=3, first_token_at=STARTED))
        await connection.execute(update(request_templates).values(metadata={"mine": 1}))
    await store.persist_completed([record(request_id=new.request_id)])
    row = await one(engine, requests)
    assert (row["input_tokens"], row["first_token_at"]) == (3, STARTED)
    assert (await one(engine, request_templates))["metadata"] == {"mine": 1}


async def test_the_template_of_a_file_keeps_its_metadata(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    async with engine.begin() as connection:
        await connection.execute(update(request_templates).values(file_id=new_request_id()))
    await store.persist_completed([record(request_id=new.request_id, metadata={"a": 1})])
    assert (await one(engine, request_templates))["metadata"] is None


async def test_a_skipped_record_writes_no_metadata(store: RequestStore, engine: AsyncEngine) -> None:
    given = record(metadata={"a": 1})
    await store.persist_completed([given])
    await store.persist_completed([record(request_id=given.request_id, metadata={"a": 2})])
    await insert_request(engine, **in_state("processing"))
    assert (await one(engine, request_templates))["metadata"] == {"a": 1}


@pytest.mark.both_schemas("RequestStore.list_requests")
async def test_a_page_of_the_rows_that_have_these_facts(store: RequestStore) -> None:
    both = record(metadata={"session": "s", "n": 1})
    one_ = record(metadata={"session": "s", "n": 2})
    other = record(metadata={"session": "s", "n": 1}, created_by="tenant-b")
    await store.persist_completed([both, one_, other, record()])

    async def found(**filters: Any) -> set[Any]:
        page = await store.list_requests(RequestFilter(**filters))
        assert page.total_count == len(page.data)
        return set(ids(page))

    assert await found(created_by="tenant-a", metadata={"session": "s"}) == {both.request_id, one_.request_id}
    assert await found(created_by="tenant-a", metadata={"session": "s", "n": 1}) == {both.request_id}
    assert await found(created_by="tenant-a", metadata={"n": "1"}) == set()
    window = {"created_after": STARTED - timedelta(hours=1), "created_before": STARTED + timedelta(hours=1)}
    assert await found(metadata={"n": 1}, **window) == {both.request_id, other.request_id}
    assert len(await found(created_by="tenant-a", metadata={})) == 3


def test_a_search_of_all_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="metadata needs created_by or created_after"):
        RequestFilter(metadata={"a": 1})
    with pytest.raises(TypeError, match="metadata must be a mapping"):
        RequestFilter(created_by="tenant-a", metadata="a")  # type: ignore[arg-type]

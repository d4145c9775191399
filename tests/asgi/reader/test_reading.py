from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any, Literal

import httpx
import pytest
from openai import NotFoundError
from openai.types.responses import ResponseCompletedEvent, ResponseErrorEvent, ResponseTextDeltaEvent

from rwriter import CompletedRequest, RequestStore, RequestsWriter, new_request_id
from rwriter.asgi import responses_app
from rwriter.asgi._ids import response_id
from rwriter.asgi._types import Receive, Scope, Send
from tests.support.asgi_client import OWNER, owners
from tests.support.driving import eventually
from tests.support.reading import STARTED, chat_record, response_body, response_record
from tests.support.records import new_request
from tests.support.rows import insert_request
from tests.support.serving import official_client, plain_client, served


async def test_the_official_client_retrieves_a_stored_response(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER)
    await store.persist_completed([finished])
    async with official_client(responses_app(store, attribute=owners)) as client:
        response = await client.responses.retrieve(response_id(finished.request_id))
    assert (response.id, response.output_text) == (response_id(finished.request_id), "hi there")
    assert response.usage is not None
    assert response.usage.total_tokens == 18


async def test_a_response_still_in_the_buffer_is_found_under_both_its_ids(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER, custom_id="resp_upstream")
    async with RequestsWriter(store, linger=60) as writer:
        await writer.send(finished)
        async with official_client(responses_app(store, writer=writer, attribute=owners)) as client:
            for asked in (response_id(finished.request_id), "resp_upstream"):
                response = await client.responses.retrieve(asked)
                assert (response.id, response.output_text) == (asked, "hi there")
        assert writer.stats.pending == 1


async def test_a_chat_completion_is_retrieved_as_itself_and_as_a_response(store: RequestStore) -> None:
    finished = chat_record({"content": "hello"}, created_by=OWNER, custom_id="chatcmpl-1")
    failed = chat_record({"content": "hello"}, created_by=OWNER, status_code=500)
    await store.persist_completed([finished, failed, elsewhere := response_record(created_by=OWNER)])
    async with official_client(responses_app(store, attribute=owners)) as client:
        completion = await client.chat.completions.retrieve("chatcmpl-1")
        assert completion.to_dict() == json.loads(finished.response_body)
        assert (await client.responses.retrieve("chatcmpl-1")).output_text == "hello"
        for other in (failed, elsewhere):
            with pytest.raises(NotFoundError):
                await client.chat.completions.retrieve(response_id(other.request_id))


async def test_a_finished_response_is_replayed_as_a_stream(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER)
    await store.persist_completed([finished])
    asked = response_id(finished.request_id)
    async with official_client(responses_app(store, attribute=owners)) as client:
        events = [event async for event in await client.responses.retrieve(asked, stream=True)]
        last = events[-1]
        assert isinstance(last, ResponseCompletedEvent)
        assert last.response == await client.responses.retrieve(asked)
        assert [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)] == ["hi there"]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        rest = [event async for event in await client.responses.retrieve(asked, stream=True, starting_after=3)]
    assert rest == events[4:]


async def test_a_stream_waits_for_its_response_to_finish(store: RequestStore) -> None:
    begun = new_request(created_by=OWNER, path="/v1/responses", body='{"input":"hello","background":true}')
    await store.create_realtime(begun)
    kinds = []
    async with official_client(responses_app(store, attribute=owners)) as client:
        async for event in await client.responses.retrieve(response_id(begun.request_id), stream=True):
            kinds.append(event.type)
            if event.type == "response.in_progress":
                await store.persist_completed([response_record(request_id=begun.request_id, created_by=OWNER)])
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"


async def test_a_stream_whose_time_is_up_says_so(store: RequestStore) -> None:
    begun = new_request(created_by=OWNER)
    await store.create_realtime(begun)
    async with official_client(responses_app(store, attribute=owners, stream_timeout=0)) as client:
        events = [e async for e in await client.responses.retrieve(response_id(begun.request_id), stream=True)]
    assert isinstance(events[-1], ResponseErrorEvent)
    assert (events[-1].code, events[-1].sequence_number) == ("timeout", 2)


async def test_a_stream_of_a_response_that_is_deleted_ends(store: RequestStore) -> None:
    begun = new_request(created_by=OWNER)
    await store.create_realtime(begun)
    async with official_client(responses_app(store, attribute=owners)) as client:
        codes = []
        async for event in await client.responses.retrieve(response_id(begun.request_id), stream=True):
            if event.type == "response.created":
                await store.delete_request(begun.request_id)
            if isinstance(event, ResponseErrorEvent):
                codes.append(event.code)
    assert codes == ["not_found"]


async def test_a_stream_ends_with_its_client(store: RequestStore) -> None:
    begun = new_request(created_by=OWNER)
    await store.create_realtime(begun)
    streams: set[asyncio.Task[object] | None] = set()
    app = responses_app(store, attribute=owners)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        streams.add(asyncio.current_task())
        await app(scope, receive, send)
        streams.clear()

    async with served(watched) as url, httpx.AsyncClient(headers={"x-api-key": "sk-alice"}) as client:
        async with client.stream("GET", f"{url}/v1/responses/{response_id(begun.request_id)}?stream=true") as answer:
            async for _ in answer.aiter_bytes():
                assert streams
                break
        await eventually(lambda: not streams)


async def test_the_official_client_pages_through_the_input(store: RequestStore) -> None:
    given = [{"role": "user", "content": f"number {number}"} for number in range(25)]
    finished = response_record(created_by=OWNER, request_body=json.dumps({"input": given}))
    await store.persist_completed([finished])
    async with official_client(responses_app(store, attribute=owners)) as client:
        orders: list[tuple[Literal["asc", "desc"], Any]] = [("asc", given), ("desc", given[::-1])]
        for order, expected in orders:
            items = client.responses.input_items.list(response_id(finished.request_id), limit=10, order=order)
            texts = [item.to_dict()["content"][0]["text"] async for item in items]  # type: ignore[index]
            assert texts == [item["content"] for item in expected]
        page = await client.responses.input_items.list(response_id(finished.request_id))
    assert len(page.data) == 20
    assert "number 24" in page.data[0].to_json()


def _series(count: int) -> list[CompletedRequest]:
    """Finished calls a second apart, but for the last two, which began at the same moment."""
    moments = [STARTED + timedelta(seconds=min(number, count - 2)) for number in range(count)]
    return [response_record(created_by=OWNER, started_at=at, completed_at=at) for at in moments]


async def test_the_listing_is_newest_first_and_paged_by_the_last_id(store: RequestStore) -> None:
    stored = _series(7)
    await store.persist_completed([*stored, response_record(created_by="bob")])
    async with plain_client(responses_app(store, attribute=owners)) as client:
        seen, query = [], {"limit": "3"}
        while True:
            page = (await client.get("/v1/responses", params=query)).json()
            seen += [item["id"] for item in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
    expected = sorted(stored, key=lambda r: (r.started_at, r.request_id), reverse=True)
    assert seen == [response_id(r.request_id) for r in expected]


async def test_a_line_of_the_listing_has_no_content(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER, started_at=STARTED, completed_at=STARTED + timedelta(seconds=2))
    await store.persist_completed([finished])
    async with plain_client(responses_app(store, attribute=owners)) as client:
        page = (await client.get("/v1/responses")).json()
    assert page == {
        "object": "list",
        "data": [
            {
                "id": response_id(finished.request_id),
                "object": "response",
                "created_at": 1772600767,
                "completed_at": 1772600769,
                "status": "completed",
                "model": "gpt-test",
                "endpoint": "/v1/responses",
                "response_status": 200,
                "service_tier": "priority",
                "duration_ms": 2000.0,
            }
        ],
        "first_id": response_id(finished.request_id),
        "last_id": response_id(finished.request_id),
        "has_more": False,
    }


async def test_the_listing_is_filtered_by_status_and_models(store: RequestStore) -> None:
    a, b, c = (response_record(created_by=OWNER, model=model) for model in ("a", "b", "c"))
    failed = response_record(created_by=OWNER, model="a", status_code=500)
    begun = new_request(created_by=OWNER, model="d")
    await store.persist_completed([a, b, c, failed])
    await store.create_realtime(begun)
    engine = store._connections.write
    claimed = {"daemon_id": new_request_id(), "claimed_at": STARTED, "state": "claimed"}
    queued = [
        await insert_request(engine, created_by=OWNER, created_at=STARTED + timedelta(days=number), **columns)
        for number, columns in enumerate(({}, claimed, {}))
    ]
    async with plain_client(responses_app(store, attribute=owners)) as client:

        async def listed(query: str) -> list[str]:
            page = (await client.get(f"/v1/responses?{query}")).json()
            return [item["id"] for item in page["data"]]

        assert set(await listed("model=a&model=b")) == {response_id(r.request_id) for r in (a, b, failed)}
        assert await listed("status=failed") == [response_id(failed.request_id)]
        assert await listed("status=in_progress") == [response_id(begun.request_id)]
        assert await listed("status=completed&model=c") == [response_id(c.request_id)]
        assert await listed("status=queued") == [response_id(identity) for identity in reversed(queued)]
        first = await listed("status=queued&limit=1")
        rest = await listed(f"status=queued&after={first[0]}")
        assert first + rest == [response_id(identity) for identity in reversed(queued)]
        # none of the two states has a third row, the status has
        page = (await client.get("/v1/responses?status=queued&limit=2")).json()
        assert page["has_more"]
        assert await listed("status=cancelled") == []


async def test_the_prefix_is_the_services_choice_and_the_app_can_be_mounted(store: RequestStore) -> None:
    from fastapi import FastAPI

    finished = response_record(response_body(), created_by=OWNER)
    await store.persist_completed([finished])
    service = FastAPI()

    @service.post("/api/v2/responses")
    async def create() -> str:
        return "made by the service"

    service.mount("/", responses_app(store, attribute=owners, prefix="/api/v2"))
    async with plain_client(service) as client:
        assert (await client.post("/api/v2/responses")).json() == "made by the service"
        found = await client.get(f"/api/v2/responses/{response_id(finished.request_id)}")
        assert found.json()["output"] == response_body()["output"]
        assert len((await client.get("/api/v2/responses")).json()["data"]) == 1
    with pytest.raises(ValueError, match="prefix"):
        responses_app(store, attribute=owners, prefix="v1")

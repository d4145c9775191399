"""The official client, reading a replay, ends with the object that it retrieves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from rwriter import CompletedRequest, RequestStore
from rwriter.asgi import responses_app
from rwriter.asgi._ids import response_id
from tests.asgi.render.test_others import ANSWERED, ASKED, FOUND, SEARCH
from tests.support.asgi_client import OWNER, owners
from tests.support.reading import chat_record, response_body, response_record
from tests.support.records import record
from tests.support.serving import official_client

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
NOTE = {"type": "url_citation", "start_index": 0, "end_index": 2, "title": "t", "url": "https://example.org"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def _message(stop_reason: str, *blocks: dict[str, Any]) -> CompletedRequest:
    body = {"type": "message", "content": blocks, "stop_reason": stop_reason, "usage": {"output_tokens": 3}}
    return record(endpoint="/v1/messages", response_body=json.dumps(body), created_by=OWNER)


def _chat(message: dict[str, Any], **changes: Any) -> CompletedRequest:
    return chat_record(message, created_by=OWNER, **changes)


def _stored(**changes: Any) -> CompletedRequest:
    status_code = changes.pop("status_code", 200)
    return response_record(response_body(**changes), created_by=OWNER, status_code=status_code)


STORED = {
    "a response": _stored(),
    "one without output": _stored(output=[]),
    "one that failed": _stored(status="failed", error={"code": "server_error", "message": "x"}, status_code=500),
    "one that is incomplete": _stored(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
    "one that its upstream has queued": _stored(status="queued", output=[]),
    "items of every kind": _stored(
        output=[
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "short"}]},
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {"type": "search", "query": "x"},
            },
            {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"},
            {"type": "an_item_of_tomorrow", "id": "t_1", "kept": {"a": [1]}},
            {
                "type": "message",
                "id": "msg_2",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {"type": "output_text", "text": "hi", "annotations": [NOTE]},
                    {"type": "refusal", "refusal": "no"},
                ],
            },
        ]
    ),
    "a chat with a call": _chat({"content": "I look", "reasoning_content": "hm", "tool_calls": [CALL]}),
    "a chat with an image": _chat({"content": "", "images": [PICTURE]}),
    "a chat with sound": _chat({"audio": {"id": "a", "data": "AAAA", "transcript": "hello"}}),
    "a chat that was cut": _chat({"content": "and"}, finish="length"),
    "a chat that failed": _chat({}, response_body='{"error":{"message":"no","code":"busy"}}', status_code=503),
    "a message with tools of servers": _message("end_turn", THOUGHT, SEARCH, FOUND, ASKED, ANSWERED),
    "a message that pauses": _message("pause_turn", {"type": "text", "text": "I look"}, SEARCH),
    "a message that was compacted": _message("end_turn", {"type": "compaction", "content": "x"}, {"type": "new"}),
    "embeddings": record(endpoint="/v1/embeddings", response_body='{"object":"list","data":[]}', created_by=OWNER),
}


async def _read(client: AsyncOpenAI, asked: str) -> tuple[Response, list[ResponseStreamEvent]]:
    whole = await client.responses.retrieve(asked)
    return whole, [event async for event in await client.responses.retrieve(asked, stream=True)]


# the client's accumulator copies an item of a type that it does not know, and warns of it
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
async def test_the_official_client_folds_a_replay_to_what_it_retrieves(
    store: RequestStore, stored: CompletedRequest
) -> None:
    await store.persist_completed([stored])
    async with official_client(responses_app(store, attribute=owners)) as client:
        whole, events = await _read(client, response_id(stored.request_id))
    items = []
    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    for event in events:
        state.handle_event(event)
        if event.type == "response.output_item.done":
            items.append(event.item)
    last: Any = events[-1]
    assert last.response.to_dict() == whole.to_dict()
    assert [item.to_dict() for item in items] == [item.to_dict() for item in whole.output]
    assert last.type == ("response.failed" if whole.status == "failed" else f"response.{whole.status}")
    if whole.status == "completed":
        assert state._completed_response.output_text == whole.output_text
    # what the client's own accumulator has put together of the pieces
    folded = state._ResponseStreamState__current_snapshot
    assert folded.output_text == whole.output_text

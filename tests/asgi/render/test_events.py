from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from rwriter.asgi._render.events import closing_events, frame, numbered, opening_events
from rwriter.asgi._render.response import response_object
from tests.support.reading import chat_record, rendered, response_body, response_record, row

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def _events(response: dict[str, Any]) -> list[dict[str, Any]]:
    events = list(numbered([*opening_events(response), *closing_events(response)], 0))
    for event in events:
        _EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def test_a_text_is_replayed_in_the_order_of_a_live_stream() -> None:
    response = rendered(response_record())
    events = _events(response)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert (events[0]["response"]["status"], events[0]["response"]["output"]) == ("in_progress", [])
    assert events[2]["item"]["content"] == []
    assert events[3]["part"]["text"] == ""
    assert (events[4]["delta"], events[4]["item_id"]) == ("hi there", "msg_1")
    assert events[-1]["response"] == response


def test_calls_refusals_and_reasoning_are_replayed_by_their_own_events() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    custom = {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    message = {"content": None, "refusal": "no", "reasoning_content": "hm", "tool_calls": [call, custom]}
    deltas = {event["type"]: event["delta"] for event in _events(rendered(chat_record(message))) if "delta" in event}
    assert deltas == {
        "response.reasoning_text.delta": "hm",
        "response.refusal.delta": "no",
        "response.function_call_arguments.delta": '{"a":1}',
        "response.custom_tool_call_input.delta": "ls",
    }


def test_summaries_and_annotations_are_replayed() -> None:
    summary = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "short"}]}
    note = {"type": "url_citation", "start_index": 0, "end_index": 2, "title": "t", "url": "https://example.org"}
    body = response_body()
    body["output"][0]["content"][0]["annotations"] = [note]
    body["output"].insert(0, summary)
    events = _events(rendered(response_record(body)))
    by_type = {event["type"]: event for event in events}
    assert by_type["response.reasoning_summary_text.done"]["text"] == "short"
    assert by_type["response.output_text.annotation.added"]["annotation"] == note
    assert by_type["response.content_part.added"]["part"]["annotations"] == []


def test_an_item_of_a_kind_unknown_here_is_added_and_done_whole() -> None:
    action = {"type": "search", "query": "x"}
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}
    added, done = _events(rendered(response_record(response_body(output=[search]))))[2:4]
    assert added["item"] == done["item"] == search


@pytest.mark.parametrize(
    ("status_code", "changes", "last"),
    [
        (200, {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "response.incomplete"),
        (500, {"error": {"message": "gone", "code": "server_error"}}, "response.failed"),
        (499, {"error": {"type": "cancelled"}}, "response.failed"),
    ],
)
def test_the_last_event_says_how_it_ended(status_code: int, changes: dict[str, Any], last: str) -> None:
    response = rendered(response_record(response_body(**changes), status_code=status_code))
    event = _events(response)[-1]
    assert (event["type"], event["response"]["status"]) == (last, response["status"])


def test_a_queued_response_is_created_and_no_more() -> None:
    (event,) = numbered(opening_events(response_object(row(status="pending"))), 0)
    assert (event["type"], event["response"]["status"]) == ("response.created", "queued")


def test_a_frame_is_one_event_whatever_is_in_it() -> None:
    event = {"type": "response.output_text.delta", "delta": "a\n\nevent: b\r\ndata: c"}
    name, data, *rest = frame(event).split(b"\n")
    assert name == b"event: response.output_text.delta"
    assert json.loads(data.removeprefix(b"data: ")) == event
    assert rest == [b"", b""]

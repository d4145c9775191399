"""Large lists of an event are passed on as they are written: no values are made of them, and none is lost."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest

from rwriter.asgi._capture.facts import Asked, Said, read, tokens_of
from rwriter.asgi._capture.stream import StreamedBody
from rwriter.asgi._json import LARGE, loads, sparse, with_error
from tests.support.folding import event
from tests.support.sizes import MIB

TOKEN: dict[str, Any] = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
TOKENS = [TOKEN] * (LARGE // 40)


def text_of(*events: Any) -> str:
    body = StreamedBody(None, 8 * MIB)
    for one in events:
        body.feed(event(one))
    body.feed(event(b"[DONE]"))
    return body.text()[0]


def chunk(**choice: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}


def test_log_probabilities_of_several_events_are_one_list() -> None:
    small = [TOKEN] * 2
    events = [chunk(delta={"content": "a"}, logprobs={"content": tokens}) for tokens in (small, TOKENS, small, TOKENS)]
    (choice,) = json.loads(text_of(*events))["choices"]
    assert choice["message"]["content"] == "aaaa"
    assert choice["logprobs"]["content"] == [*small, *TOKENS, *small, *TOKENS]


@pytest.mark.parametrize("name", ["output", "tools", "metadata"])
def test_a_final_response_is_stored_as_it_came(name: str) -> None:
    response = {"id": "r", "object": "response", "status": "completed", name: TOKENS, "usage": {"input_tokens": 5}}
    text = text_of({"type": "response.completed", "response": response})
    assert json.loads(text) == {"output": [], **response}
    assert tokens_of(read(text, Said)) == {"input_tokens": 5}


def test_items_that_are_merged_one_by_one_are_merged_however_many_there_are() -> None:
    pieces = [{"index": number, "type": "reasoning.text", "text": "ab"} for number in range(LARGE // 40)]
    (choice,) = json.loads(text_of(*[chunk(delta={"reasoning_details": pieces})] * 2))["choices"]
    assert [one["text"] for one in choice["message"]["reasoning_details"]] == ["abab"] * len(pieces)


def test_blocks_of_a_large_message_keep_their_places() -> None:
    blocks = [{"type": "text", "text": "x" * 20}] * (LARGE // 30)
    message = {"id": "m", "type": "message", "role": "assistant", "content": blocks}
    made = json.loads(text_of({"type": "message_start", "message": message}, {"type": "message_stop"}))
    assert made["content"] == blocks


@pytest.mark.parametrize(
    "flaw", [b'"\xff"', b'"\\ud800"', b"NaN", b"nul", b'"a', b"[" * 2_000 + b"]" * 2_000], ids=range(6)
)
def test_whatever_is_wrong_with_an_event_it_is_read_as_ever(flaw: bytes) -> None:
    text = b'{"response":{"output":[' + b'{"a":1},' * LARGE + flaw + b'],"id":"r"}}'
    assert msgspec.json.encode(sparse(text)) == msgspec.json.encode(loads(text))


def test_no_values_are_made_of_log_probabilities() -> None:
    tokens = [TOKEN] * (4 * MIB // len(msgspec.json.encode(TOKEN)))
    data = event(chunk(delta={"content": "a"}, logprobs={"content": tokens}))
    del tokens
    body = StreamedBody(None, 8 * MIB)
    tracemalloc.start()
    body.feed(data)
    text, _ = body.text()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(text) > 4 * MIB
    assert peak < 12 * len(data)  # of values alone it would be thirty times


@pytest.mark.parametrize("name", ["metadata", "store", "model"])
def test_a_large_member_is_no_fact_of_a_row_and_hides_no_other(name: str) -> None:
    text = json.dumps({"background": True, name: [{"a": 1}] * LARGE, "stream": False})
    asked = read(text, Asked)
    assert (asked.background, asked.stream, getattr(asked, name)) == (True, False, None)


def test_usage_within_large_choices_is_found() -> None:
    choice = {"index": 0, "logprobs": {"content": TOKENS}, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert tokens_of(read(json.dumps({"choices": [choice]}), Said)) == {"input_tokens": 3, "output_tokens": 4}


def test_an_error_is_added_to_a_large_answer() -> None:
    answer = {"id": "r", "output": TOKENS}
    assert json.loads(with_error(json.dumps(answer), {"code": "c"})) == {**answer, "error": {"code": "c"}}
    told = {**answer, "error": {"code": "its own"}}
    assert json.loads(with_error(json.dumps(told), {"code": "c"})) == told


def test_a_large_piece_of_gemini_is_folded_with_those_after_it() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "A" * (LARGE + 1)}}
    pieces = [
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "a"}, image]}}], "modelVersion": "g"},
        {"candidates": [{"content": {"parts": [{"text": "b"}]}, "finishReason": "STOP"}]},
    ]
    body = StreamedBody(None, 8 * MIB)
    for one in pieces:
        body.feed(event(one))
    (candidate,) = json.loads(body.text()[0])["candidates"]
    assert candidate["content"]["parts"] == [{"text": "a"}, image, {"text": "b"}]


def test_the_items_of_a_large_snapshot_are_continued_by_their_pieces() -> None:
    call = {"type": "mcp_list_tools", "id": "m", "tools": [{"name": "x" * 50}] * (LARGE // 50)}
    snapshot = {"id": "r", "status": "in_progress", "output": [call]}
    piece = {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "hi"}
    output = json.loads(text_of({"type": "response.in_progress", "response": snapshot}, piece))["output"]
    assert output[0] == call
    assert output[1]["content"][0]["text"] == "hi"

"""A stream that stops before its end: what had come is kept, and it does not count as complete."""

from __future__ import annotations

from typing import Any

import pytest

from rwriter.asgi._fold.stream import Folded
from tests.support.folding import NAMES, body, chunk, content, event, events_of, fold, folded, named, stream, whole

RESPONSES = [name for name in NAMES if name.startswith("responses")]


def texts(node: Any) -> list[str]:
    """Every string in ``node`` that a model may have written."""
    if isinstance(node, dict):
        return [text for key, one in node.items() if key != "object" for text in texts(one)]
    if isinstance(node, list):
        return [text for one in node for text in texts(one)]
    return [node] if isinstance(node, str) else []


def is_part(text: str, wholes: list[str]) -> bool:
    return any(one.startswith(text) for one in wholes)


@pytest.mark.parametrize("name", NAMES)
def test_cut_at_any_byte_it_holds_beginnings_of_the_whole_and_is_complete_only_at_the_end(name: str) -> None:
    data, wholes = stream(name), [*texts(whole(name)), "in_progress", "queued", "commentary", '{"where": "San']
    made, before = fold([]), 0
    for at in range(len(data) - 1):
        made.feed(data[at : at + 1])
        if data[at] != ord("\n"):
            continue
        result = made.result()
        now = texts(result.body)
        assert all(is_part(text, wholes) for text in now), now
        assert sum(map(len, now)) >= before - len("in_progress")
        before = sum(map(len, now))
        assert result.complete == made.ended
        if not (b"[DONE]" in data[:at] or b'message_stop"}' in data[:at]):
            assert result.complete == is_finished(result.body)
    made.feed(data[-1:])
    assert made.result().body == whole(name)  # asking in between has changed nothing


def test_a_chat_that_is_cut() -> None:
    made = folded(chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"}), b'data: {"choices":[{')
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": None}
    expected = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice]}
    assert made == Folded(expected, complete=False, error=None, truncated=False)


def test_a_tool_call_that_is_cut() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    message = body(chunk({"role": "assistant", "tool_calls": [call]}))["choices"][0]["message"]
    assert message["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a'}}]
    assert message["content"] is None


def is_finished(made: dict[str, Any] | None) -> bool:
    """Return True if nothing can be missing: each choice has its finish reason, the message its stop reason."""
    choices = (made or {}).get("choices")
    if choices is not None:
        return bool(choices) and all(choice["finish_reason"] for choice in choices)
    return bool((made or {}).get("stop_reason"))


def test_an_answer_is_complete_with_the_finish_reasons_of_all_its_choices() -> None:
    assert folded(chunk({"content": "x"}), chunk({}, "stop")).complete
    assert not folded(chunk({"content": "x"}), chunk({"content": "y"}, index=1), chunk({}, "stop")).complete


def test_a_message_that_is_cut() -> None:
    made = folded(stream("messages_tools").partition(b" Jos")[0] + b"\n\n", b"")
    assert not made.complete
    assert made.body is not None
    assert made.body["content"][0] == {"type": "text", "text": "I'll look."}
    assert made.body["content"][1]["input"] == '{"where": "San'
    assert made.body["stop_reason"] is None
    assert made.body["usage"]["input_tokens"] == 25


@pytest.mark.parametrize("name", RESPONSES)
def test_the_items_of_a_response_are_whole_before_its_last_event(name: str) -> None:
    *events, _last = events_of(name)
    made = folded(*map(named, events))
    assert made.body is not None
    assert not made.complete
    if name != "responses_empty_output":  # its second item is never done
        assert made.body["output"] == whole(name)["output"]
    assert made.body["status"] == "in_progress"


def stripped(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "status"}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_items_of_a_response_grow_by_their_deltas_alone(name: str) -> None:
    events = [one for one in events_of(name) if not one["type"].endswith((".done", ".completed", ".incomplete"))]
    output = body(*map(named, events))["output"]
    assert [*map(stripped, output)] == [*map(stripped, whole(name)["output"])]


@pytest.mark.parametrize("name", RESPONSES)
def test_texts_that_are_done_count_without_their_deltas(name: str) -> None:
    events = [one for one in events_of(name) if "delta" not in one and ".completed" not in one["type"]]
    events = [one for one in events if one["type"] not in {"response.output_item.done", "response.incomplete"}]
    output = body(*map(named, events))["output"]
    assert [*map(stripped, output[:1])] == [*map(stripped, whole(name)["output"][:1])]


def test_deltas_of_an_item_that_was_not_announced_make_one() -> None:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    deltas = [named({"type": "response.output_text.delta", **at, "delta": text}) for text in ("a", "b")]
    part = {"type": "output_text", "text": "ab"}
    item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": [part]}
    assert body(*deltas) == {"object": "response", "output": [item]}


def test_logprobs_of_a_response_that_is_cut_are_kept() -> None:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    deltas = [
        named(
            {"type": "response.output_text.delta", **at, "delta": text, "logprobs": [{"token": text, "logprob": -1.5}]}
        )
        for text in ("a", "b")
    ]
    part = body(*deltas)["output"][0]["content"][0]
    assert part["logprobs"] == [{"token": "a", "logprob": -1.5}, {"token": "b", "logprob": -1.5}]


MARKERS = {
    "[DONE]": (chunk({"content": "x"}), b"data: [DONE]"),
    "message_stop": (
        named({"type": "message_start", "message": {"id": "m", "content": []}}),
        b'event: message_stop\ndata: {"type":"message_stop"}',
    ),
}


@pytest.mark.parametrize(("begin", "marker"), MARKERS.values(), ids=MARKERS)
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r", b"\r\n", b"\n\n"], ids=repr)
def test_a_marker_that_carries_nothing_counts_before_its_blank_line(begin: bytes, marker: bytes, ending: bytes) -> None:
    made = fold([begin, marker + ending])
    assert made.ended
    assert made.result().complete
    assert not folded(begin, marker[:-1]).complete


def test_an_event_that_carries_something_counts_with_its_blank_line_only() -> None:
    last = named({"type": "response.completed", "response": {"id": "r", "output": []}})
    assert not folded(last[:-1]).complete
    assert folded(last).complete
    assert content(body(chunk({"content": "x"}), chunk({"content": "y"})[:-1])) == "x"


def test_done_is_the_end_of_completions_only() -> None:
    assert not folded(named({"type": "response.created", "response": {"id": "r"}}), event(b"[DONE]")).complete
    assert not folded(named({"type": "message_start", "message": {"id": "m"}}), event(b"[DONE]")).complete

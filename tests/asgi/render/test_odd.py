"""Requests and answers that are shaped unlike any API's still read as a response."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rwriter.asgi._render.events import closing_events
from rwriter.asgi._render.params import echo, required
from tests.support.reading import rendered, response_record

CALLED = {"type": "function_call", "name": "f", "arguments": "{}"}


def shown(message: object, **choice: Any) -> list[dict[str, Any]]:
    """Return the items of a chat completion whose one choice holds ``message``."""
    body = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"} | choice]}
    items: list[dict[str, Any]] = rendered(response_record(json.dumps(body)))["output"]
    return items


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ("sometimes", "auto"),
        (["required"], "auto"),
        ({"type": "function", "name": "f"}, {"type": "function", "name": "f"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "f"}),
        ({"type": "allowed_tools", "tools": []}, {"type": "allowed_tools", "tools": []}),
    ],
    ids=str,
)
def test_the_choice_of_a_tool_is_told_in_the_words_of_a_response(asked: object, told: object) -> None:
    assert required({"tool_choice": asked})["tool_choice"] == told


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"type": "json_schema", "json_schema": {"name": "s"}}, {"type": "json_schema", "name": "s"}),
        ({"type": "json_object"}, {"type": "json_object"}),
        ({"json_schema": {}}, {"type": "text"}),
        ("json", {"type": "text"}),
    ],
    ids=str,
)
def test_the_format_of_a_text_is_told_in_the_words_of_a_response(asked: object, told: object) -> None:
    assert echo({"response_format": asked})["text"]["format"] == told


@pytest.mark.parametrize("message", [None, "hello", ["hello"]], ids=repr)
def test_a_choice_without_a_message_says_nothing(message: object) -> None:
    assert shown(message) == []


def test_a_tool_call_of_no_kind_is_passed_over() -> None:
    calls = [{"id": "call_1"}, "call", {"function": {"name": "f", "arguments": "{}"}}]
    (called,) = shown({"tool_calls": calls})
    assert {name: called[name] for name in CALLED} == CALLED


def test_notes_and_tokens_are_kept_whatever_they_miss() -> None:
    notes = [{"type": "file_citation", "file_id": "file_1"}, {"url_citation": {"url": "https://example.org"}}]
    tokens = [{"token": "é", "bytes": None}, {"token": "a", "bytes": [97], "top_logprobs": [{"token": "b"}]}]
    (said,) = shown({"content": "éa", "annotations": notes}, logprobs={"content": tokens})
    (part,) = said["content"]
    assert part["annotations"][0] == notes[0]
    assert part["annotations"][1]["url"] == "https://example.org"
    assert [token["bytes"] for token in part["logprobs"]] == [[0xC3, 0xA9], [97]]
    assert part["logprobs"][1]["top_logprobs"] == [{"token": "b", "bytes": [98]}]


def test_a_choice_of_a_text_completion_without_text_says_nothing() -> None:
    body = {"object": "text_completion", "choices": [{"text": "one"}, {"index": 1}, {"text": 2}]}
    items = rendered(response_record(json.dumps(body)))["output"]
    assert [item["content"][0]["text"] for item in items] == ["one"]


@pytest.mark.parametrize("audio", [{"id": "audio_1", "data": "AAAA"}, {"transcript": "hi"}, {}], ids=str)
def test_a_sound_is_told_with_its_words_or_without(audio: dict[str, str]) -> None:
    items = shown({"content": None, "audio": audio})
    assert len(items) == bool(audio)
    for item in items:
        assert item["content"][0]["text"] == audio.get("transcript", "")
        assert item["content"][0].get("audio", {}) == {key: audio[key] for key in audio if key != "transcript"}


def test_items_and_parts_that_are_none_make_no_event_of_their_own() -> None:
    part = {"type": "something new"}
    output = ["an item", {"type": "message", "id": "msg_1", "content": ["a part", part]}]
    events = list(closing_events({"status": "completed", "output": output}))
    about = [event["type"] for event in events if event.get("part") == part]
    assert about == ["response.content_part.added", "response.content_part.done"]
    assert {event.get("output_index", 1) for event in events} == {1}
    assert events[-1]["type"] == "response.completed"


def test_a_chat_without_choices_is_a_response_without_output() -> None:
    assert rendered(response_record(json.dumps({"object": "chat.completion", "choices": "none"})))["output"] == []

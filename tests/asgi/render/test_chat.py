from __future__ import annotations

import json
from typing import Any

import pytest

from rwriter import CompletedRequest
from tests.support.reading import STARTED, USAGE, chat_record, rendered, strict


def _items(finished: CompletedRequest) -> list[dict[str, Any]]:
    response = rendered(finished)
    strict(response)
    items: list[dict[str, Any]] = response["output"]
    return items


def test_a_chat_completion_reads_as_a_response_with_its_text_and_usage() -> None:
    finished = chat_record({"content": "hello there"})
    response = strict(rendered(finished))
    assert response.id == f"resp_{finished.request_id}"
    assert (response.status, response.model, response.background) == ("completed", "gpt-test", False)
    assert response.created_at == int(STARTED.timestamp())
    assert response.completed_at == int(STARTED.timestamp()) + 2
    assert response.output_text == "hello there"
    assert response.usage is not None
    assert response.usage.model_dump(exclude_none=True) == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 18,
    }


def test_every_item_has_an_id_of_its_own_that_does_not_change() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    finished = chat_record({"content": "a", "reasoning_content": "b", "tool_calls": [call, call | {"id": "call_2"}]})
    ids = [item["id"] for item in _items(finished)]
    assert len(set(ids)) == 4
    assert ids == [item["id"] for item in _items(finished)]


def test_tool_calls_are_function_calls_after_what_was_said() -> None:
    call = {"id": "call_9", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    said, called = _items(chat_record({"content": "one moment", "tool_calls": [call]}, finish="tool_calls"))
    assert said["content"][0]["text"] == "one moment"
    assert (called["type"], called["call_id"], called["name"]) == ("function_call", "call_9", "weather")
    assert (called["arguments"], called["status"]) == ('{"city":"Oslo"}', "completed")


@pytest.mark.parametrize("content", [None, ""])
def test_nothing_said_beside_a_tool_call_is_no_message(content: str | None) -> None:
    call = {"id": "call_9", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    items = _items(chat_record({"content": content, "tool_calls": [call]}, finish="tool_calls"))
    assert [item["type"] for item in items] == ["function_call"]


def test_custom_and_old_style_calls_are_calls_too() -> None:
    custom = {"id": "call_c", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    message = {"content": None, "tool_calls": [custom], "function_call": {"name": "old", "arguments": "{}"}}
    first, second = _items(chat_record(message))
    assert (first["type"], first["call_id"], first["input"]) == ("custom_tool_call", "call_c", "ls")
    assert (second["type"], second["name"]) == ("function_call", "old")
    assert second["call_id"].startswith("call_")


def test_an_empty_answer_is_an_empty_text() -> None:
    assert strict(rendered(chat_record({"content": ""}))).output_text == ""
    assert len(_items(chat_record({"content": ""}))) == 1


def test_a_refusal_is_a_refusal_part() -> None:
    (item,) = _items(chat_record({"content": None, "refusal": "I would rather not."}))
    assert item["content"] == [{"type": "refusal", "refusal": "I would rather not."}]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_comes_first_as_an_item_of_its_own(name: str) -> None:
    thought, said = _items(chat_record({name: "let me see", "content": "42"}))
    assert thought["type"] == "reasoning"
    assert thought["content"] == [{"type": "reasoning_text", "text": "let me see"}]
    assert said["content"][0]["text"] == "42"


def test_citations_and_log_probabilities_are_kept_in_the_words_of_a_response() -> None:
    cited = {"url": "https://example.org", "title": "Example", "start_index": 0, "end_index": 5}
    token: dict[str, Any] = {"token": "hé", "bytes": None, "logprob": -0.5, "top_logprobs": []}
    finished = chat_record({"content": "hé", "annotations": [{"type": "url_citation", "url_citation": cited}]})
    body = json.loads(finished.response_body)
    body["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    (item,) = _items(chat_record({}, response_body=json.dumps(body)))
    assert item["content"][0]["annotations"] == [{"type": "url_citation"} | cited]
    assert item["content"][0]["logprobs"] == [token | {"bytes": [104, 195, 169]}]


def test_each_choice_is_a_message() -> None:
    finished = chat_record({"content": "one"})
    body = json.loads(finished.response_body)
    body["choices"].append({"index": 1, "message": {"role": "assistant", "content": "two"}, "finish_reason": "stop"})
    items = _items(chat_record({}, response_body=json.dumps(body)))
    assert [item["content"][0]["text"] for item in items] == ["one", "two"]


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_cut_off_is_incomplete_and_says_why(finish: str, reason: str) -> None:
    finished = chat_record({"content": "and then"}, finish=finish)
    response = strict(rendered(finished))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == reason
    assert response.completed_at is None
    assert response.output_text == "and then"
    assert [item["status"] for item in _items(finished)] == ["incomplete"]


def test_what_had_arrived_of_a_failed_stream_is_kept() -> None:
    body = json.loads(chat_record({"content": "half a sen"}).response_body)
    body["error"] = {"type": "stream_truncated", "code": "stream_truncated", "message": "the answer stopped"}
    response = rendered(chat_record({}, status_code=502, response_body=json.dumps(body)))
    assert response["status"] == "failed"
    assert response["output"][0]["content"][0]["text"] == "half a sen"
    assert response["output"][0]["status"] == "incomplete"
    assert response["error"] == {"code": "stream_truncated", "type": "server_error", "message": "the answer stopped"}


def test_parameters_are_repeated_in_the_words_of_a_response() -> None:
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    function = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}
    request = {
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.2,
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
        "metadata": {"team": "red"},
        "parallel_tool_calls": False,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {"type": "json_schema", "json_schema": schema},
        "top_p": "no number",
        "user": 5,
    }
    response = strict(rendered(chat_record({"content": "hi"}, request_body=json.dumps(request))))
    shown = response.model_dump(by_alias=True, exclude_none=True)
    assert (shown["temperature"], shown["max_output_tokens"], shown["reasoning"]) == (0.2, 50, {"effort": "low"})
    assert shown["metadata"] == {"team": "red"}
    assert shown["parallel_tool_calls"] is False
    assert shown["tools"] == [{"type": "function"} | function]
    assert shown["tool_choice"] == {"type": "function", "name": "weather"}
    assert shown["text"] == {"format": {"type": "json_schema"} | schema}
    assert "top_p" not in shown
    assert "user" not in shown
    assert "messages" not in shown


def test_usage_that_is_no_number_counts_nothing() -> None:
    body = json.loads(chat_record({"content": "hi"}).response_body)
    body["usage"] = {"prompt_tokens": None, "completion_tokens": "7", "prompt_tokens_details": None}
    response = strict(rendered(chat_record({}, response_body=json.dumps(body))))
    assert response.usage is not None
    assert response.usage.total_tokens == 0
    body["usage"] = USAGE | {"total_tokens": None}
    response = strict(rendered(chat_record({}, response_body=json.dumps(body))))
    assert response.usage is not None
    assert response.usage.total_tokens == 18


def test_an_image_is_shown_and_no_empty_message_beside_it() -> None:
    url = "data:image/png;base64,AAAA"
    images = [{"type": "image_url", "image_url": {"url": url}}, {"image_url": "https://example.org/i.png"}, {}]
    response = rendered(chat_record({"content": "", "images": images}))
    strict(response)
    shown, linked = response["output"]
    assert (shown["type"], shown["status"]) == ("image_generation_call", "completed")
    assert (shown["result"], shown["image_url"]) == ("AAAA", url)
    assert (linked["result"], linked["image_url"]) == (None, "https://example.org/i.png")


@pytest.mark.parametrize("transcript", [{"transcript": "hello"}, {}])
def test_a_sound_goes_with_its_words(transcript: dict[str, str]) -> None:
    audio = {"id": "audio_1", "data": "AAAA", "expires_at": 9}
    response = rendered(chat_record({"content": None, "audio": audio | transcript}))
    assert strict(response).output_text == transcript.get("transcript", "")
    assert response["output"][0]["content"][0]["audio"] == audio


def test_details_of_a_thought_keep_their_proofs() -> None:
    details = [
        {"type": "reasoning.summary", "summary": "short"},
        {"type": "reasoning.text", "text": "long", "signature": "c2ln"},
        {"type": "reasoning.encrypted", "data": "b3BhcXVl"},
    ]
    response = rendered(chat_record({"content": "so", "reasoning_details": details}))
    strict(response)
    thought, hidden, _ = response["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "short"}]
    assert thought["content"] == [{"type": "reasoning_text", "text": "long"}]
    assert (thought["encrypted_content"], hidden["encrypted_content"]) == ("c2ln", "b3BhcXVl")

from __future__ import annotations

import json
from typing import Any

from rwriter import CompletedRequest
from tests.support.reading import rendered, strict
from tests.support.records import record


def _message(content: list[dict[str, Any]], **changes: Any) -> CompletedRequest:
    body = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": content,
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 30,
            "cache_creation_input_tokens": 2,
            "output_tokens": 4,
        },
    }
    request = {"model": "claude-test", "max_tokens": 64, "system": "be brief", "messages": []}
    return record(
        endpoint="/v1/messages",
        model="claude-test",
        request_body=json.dumps(request | changes.pop("request", {})),
        response_body=json.dumps(body | changes),
    )


def test_a_message_reads_as_a_response_whose_input_counts_the_cache() -> None:
    response = strict(rendered(_message([{"type": "text", "text": "hello"}])))
    assert (response.output_text, response.status, response.instructions) == ("hello", "completed", "be brief")
    assert response.max_output_tokens == 64
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (37, 4, 41)
    assert response.usage.input_tokens_details.cached_tokens == 30
    assert response.usage.input_tokens_details.cache_write_tokens == 2


def test_thinking_texts_and_tool_uses_keep_their_order() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        {"type": "text", "text": "I will "},
        {"type": "text", "text": "look."},
        {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"q": "x"}},
        {"type": "a_block_of_tomorrow"},
    ]
    response = rendered(_message(blocks, stop_reason="tool_use"))
    strict(response)
    thought, hidden, said, called = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert hidden["encrypted_content"] == "b3BhcXVl"
    assert [part["text"] for part in said["content"]] == ["I will ", "look."]
    assert (called["call_id"], called["name"], called["arguments"]) == ("toolu_1", "search", '{"q":"x"}')


def test_a_message_cut_off_is_incomplete() -> None:
    response = strict(rendered(_message([{"type": "text", "text": "and"}], stop_reason="max_tokens")))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_a_citation_of_the_web_is_an_annotation() -> None:
    cited = {"type": "web_search_result_location", "url": "https://example.org", "title": "Example"}
    elsewhere = {"type": "char_location", "document_index": 0}
    response = rendered(_message([{"type": "text", "text": "so", "citations": [cited, elsewhere]}]))
    strict(response)
    (note,) = response["output"][0]["content"][0]["annotations"]
    assert (note["url"], note["start_index"], note["end_index"]) == ("https://example.org", 0, 2)


def test_the_tools_of_a_message_are_functions() -> None:
    tool = {"name": "search", "description": "the web", "input_schema": {"type": "object"}}
    request = {"tools": [tool], "tool_choice": {"type": "tool", "name": "search"}}
    response = rendered(_message([{"type": "text", "text": "ok"}], request=request))
    strict(response)
    (shown,) = response["tools"]
    assert (shown["type"], shown["name"], shown["parameters"]) == ("function", "search", {"type": "object"})
    assert response["tool_choice"] == {"type": "function", "name": "search"}
    assert rendered(_message([], request={"tool_choice": {"type": "any"}}))["tool_choice"] == "required"


def test_a_text_completion_is_a_message() -> None:
    choices = [{"index": 0, "text": "once upon", "finish_reason": "length", "logprobs": None}]
    body = {"id": "cmpl-1", "object": "text_completion", "choices": choices, "usage": {"prompt_tokens": 2}}
    response = strict(rendered(record(endpoint="/v1/completions", response_body=json.dumps(body))))
    assert (response.output_text, response.status) == ("once upon", "incomplete")


def test_embeddings_have_no_output_but_their_usage_and_the_object_as_it_was() -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.25, -1]}
    body = {"object": "list", "data": [vector], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    response = rendered(record(endpoint="/v1/embeddings", response_body=json.dumps(body)))
    assert strict(response).status == "completed"
    assert response["output"] == []
    assert response["usage"]["input_tokens"] == 4
    assert response["rwriter"] == {"endpoint": "/v1/embeddings", "body": body}


def test_servers_that_leave_the_object_field_out_are_understood() -> None:
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    chat = record(endpoint="/v1/chat/completions", response_body=json.dumps({"choices": [choice]}))
    assert strict(rendered(chat)).output_text == "hi"
    message = record(endpoint="/v1/messages", response_body='{"content":[{"type":"text","text":"hi"}]}')
    assert strict(rendered(message)).output_text == "hi"
    response = record(endpoint="/v1/responses", response_body='{"output":[],"kept":1}')
    assert rendered(response)["kept"] == 1

from __future__ import annotations

import json
from typing import Any

import pytest

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
        {"type": "a_block_of_tomorrow", "kept": 1},
    ]
    response = rendered(_message(blocks, stop_reason="tool_use"))
    strict(response)
    thought, hidden, said, called = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert thought["encrypted_content"] == "c2ln"
    assert response["rwriter"] == {"blocks": [{"type": "a_block_of_tomorrow", "kept": 1}]}
    assert hidden["encrypted_content"] == "b3BhcXVl"
    assert [part["text"] for part in said["content"]] == ["I will ", "look."]
    assert (called["call_id"], called["name"], called["arguments"]) == ("toolu_1", "search", '{"q":"x"}')


SEARCH: dict[str, Any] = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "tea"}}
FOUND: dict[str, Any] = {
    "type": "web_search_tool_result",
    "tool_use_id": "s1",
    "content": [{"type": "web_search_result", "url": "https://example.org", "encrypted_content": "ZW5j"}],
}
ASKED: dict[str, Any] = {
    "type": "mcp_tool_use",
    "id": "m1",
    "name": "look",
    "server_name": "crm",
    "input": {"a": 1},
}
ANSWERED: dict[str, Any] = {
    "type": "mcp_tool_result",
    "tool_use_id": "m1",
    "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}],
}


def test_a_search_of_the_providers_has_its_sources_and_the_blocks_as_they_were() -> None:
    response = rendered(_message([SEARCH, FOUND, {"type": "text", "text": "so"}]))
    strict(response)
    search, said = response["output"]
    assert (search["type"], search["status"], said["type"]) == ("web_search_call", "completed", "message")
    sources = [{"type": "url", "url": "https://example.org"}]
    assert search["action"] == {"type": "search", "query": "tea", "queries": ["tea"], "sources": sources}
    assert search["rwriter"] == {"block": SEARCH, "result": FOUND}


def test_a_tool_of_a_server_is_a_call_with_its_output() -> None:
    run = {"type": "server_tool_use", "id": "c1", "name": "code_execution", "input": {"code": "1"}}
    ran = {"type": "code_execution_tool_result", "tool_use_id": "c1", "content": {"stdout": "1", "return_code": 0}}
    response = rendered(_message([ASKED, run, ANSWERED, ran]))
    strict(response)
    asked, executed = response["output"]
    assert (asked["name"], asked["server_label"], asked["arguments"]) == ("look", "crm", '{"a":1}')
    assert (asked["output"], asked["status"]) == ("one two", "completed")
    assert (executed["name"], json.loads(executed["output"])) == ("code_execution", ran["content"])


@pytest.mark.parametrize(
    "result",
    [
        {"type": "mcp_tool_result", "tool_use_id": "m1", "is_error": True, "content": "no"},
        {"type": "web_fetch_tool_result", "tool_use_id": "m1", "content": {"type": "web_fetch_tool_result_error"}},
    ],
)
def test_a_tool_that_failed_says_so(result: dict[str, Any]) -> None:
    response = rendered(_message([ASKED, result]))
    strict(response)
    assert response["output"][0]["status"] == "failed"


def test_a_result_of_an_earlier_answer_is_an_item_of_its_own() -> None:
    response = rendered(_message([FOUND]))
    strict(response)
    (item,) = response["output"]
    assert (item["name"], item["rwriter"]) == ("web_search", {"result": FOUND})


def test_a_paused_turn_is_incomplete_and_what_it_said_is_whole() -> None:
    response = rendered(_message([{"type": "text", "text": "I look"}, SEARCH], stop_reason="pause_turn"))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "pause_turn"})
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


def test_a_compaction_and_an_image_are_items() -> None:
    compaction = {"type": "compaction", "content": "so far: tea"}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://example.org/i.png"}}
    response = rendered(_message([compaction, picture, linked]))
    strict(response)
    compacted, shown, referred = response["output"]
    assert (compacted["encrypted_content"], compacted["rwriter"]) == ("so far: tea", {"block": compaction})
    assert (shown["result"], shown["image_url"]) == ("AAAA", "data:image/png;base64,AAAA")
    assert (referred["result"], referred["image_url"]) == (None, "https://example.org/i.png")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"usage": {"prompt_tokens": 0}, "x_groq": {"usage": {"prompt_tokens": 7, "completion_tokens": 1}}}, (7, 1, 8)),
        ({"choices": [{"usage": {"prompt_tokens": 4, "completion_tokens": 2}}]}, (4, 2, 6)),
        ({"usage": {"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 5, "totalTokens": 10}}, (8, 2, 10)),
        ({"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 4}}, (3, 6, 9)),
        ({"prompt_eval_count": 3, "eval_count": 2}, (3, 2, 5)),
    ],
)
def test_usage_is_found_wherever_it_stands(members: dict[str, Any], expected: tuple[int, int, int]) -> None:
    response = rendered(record(endpoint="/x", response_body=json.dumps(members)))
    strict(response)
    usage = response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == expected
    assert rendered(record(endpoint="/x", response_body='{"usage":{},"x_groq":{"usage":null}}'))["usage"] is None


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

"""Answers of Ollama, Gemini and Bedrock read as Responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rwriter import CompletedRequest
from tests.support.reading import rendered, strict
from tests.support.records import record

OLLAMA = {
    "model": "q",
    "message": {
        "role": "assistant",
        "content": "Hello",
        "thinking": "Hm",
        "tool_calls": [{"function": {"name": "look", "arguments": {"a": 1}}}],
    },
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 3,
    "eval_count": 4,
}
GEMINI = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Hm", "thought": True},
                    {"text": "Hello"},
                    {"functionCall": {"name": "look", "args": {"a": 1}}},
                ],
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
}
CONVERSE = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s"}}},
                {"text": "Hello"},
                {"toolUse": {"toolUseId": "t", "name": "look", "input": {"a": 1}}},
            ],
        }
    },
    "stopReason": "end_turn",
    "usage": {"inputTokens": 3, "outputTokens": 4},
}


def answered(body: dict[str, Any], path: str) -> CompletedRequest:
    return record(endpoint=path, request_body="{}", response_body=json.dumps(body))


SAME = {
    "ollama": (OLLAMA, "/api/chat"),
    "gemini": (GEMINI, "/v1beta/models/g:generateContent"),
    "converse": (CONVERSE, "/model/c/converse"),
}


@pytest.mark.parametrize(("body", "path"), SAME.values(), ids=SAME)
def test_thought_text_call_and_counts_are_shown(body: dict[str, Any], path: str) -> None:
    shown = rendered(answered(body, path))
    response = strict(shown)
    assert (response.status, response.output_text) == ("completed", "Hello")
    assert [item["type"] for item in shown["output"]] == ["reasoning", "message", "function_call"]
    assert shown["output"][0]["content"][0]["text"] == "Hm"
    call = shown["output"][2]
    assert (call["name"], json.loads(call["arguments"])) == ("look", {"a": 1})
    assert (shown["usage"]["input_tokens"], shown["usage"]["output_tokens"]) == (3, 4)
    assert "rwriter" not in shown


def test_a_generated_text_and_an_image_are_shown() -> None:
    generated = {"model": "q", "response": "Hello", "done": True, "done_reason": "length"}
    shown = rendered(answered(generated, "/api/generate"))
    assert (strict(shown).output_text, shown["status"]) == ("Hello", "incomplete")
    part = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    drawn = {"candidates": [{"content": {"parts": [part]}, "finishReason": "MAX_TOKENS"}]}
    shown = rendered(answered(drawn, "/v1beta/models/g:generateContent"))
    assert [(item["type"], item["result"]) for item in shown["output"]] == [("image_generation_call", "QUJD")]
    assert shown["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    "body",
    [
        {"candidates": [None, {"content": None}, {"content": {"parts": [1, {"functionCall": 5, "inlineData": []}]}}]},
        {"done": True, "message": {"content": 7, "tool_calls": 1}},
        {"output": {"message": {"content": "x"}}, "stopReason": 5},
        {"output": {"message": {"content": [{"toolUse": {"input": 5}}, {"odd": 1}]}}, "stopReason": None},
    ],
)
def test_odd_answers_are_shown_without_raising(body: dict[str, Any]) -> None:
    assert rendered(answered(body, "/x"))["status"] in {"completed", "incomplete"}

"""Error frames, failed responses, and the status each stands for."""

from __future__ import annotations

from typing import Any

import pytest

from rwriter.asgi._fold.stream import Folded, StreamError
from tests.support.folding import body, chunk, content, event, folded, named

CHAT = {"error": {"message": "Boom", "type": "server_error", "param": None, "code": None}}
ANTHROPIC = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
RESPONSES = {
    "type": "error",
    "sequence_number": 3,
    "code": "rate_limit_exceeded",
    "message": "Slow down",
    "param": None,
}
FLAT = {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}

FRAMES = {
    "chat": (event(CHAT), StreamError(500, "server_error", "Boom")),
    "chat with a name": (event(CHAT, "error"), StreamError(500, "server_error", "Boom")),
    "a bare string": (event({"error": "no"}), StreamError(500, "server_error", "no")),
    "messages": (named(ANTHROPIC), StreamError(529, "overloaded_error", "Overloaded")),
    "messages without a name": (event(ANTHROPIC), StreamError(529, "overloaded_error", "Overloaded")),
    "responses": (named(RESPONSES), StreamError(429, "rate_limit_exceeded", "Slow down")),
    "without an envelope": (event(FLAT), StreamError(400, "BadRequestError", "too long")),
    "a name and words": (event(b"upstream is gone", "error"), StreamError(500, "server_error", "upstream is gone")),
    "a name and an object": (event({"message": "m", "status": 503}, "error"), StreamError(503, "server_error", "m")),
    "detail": (event({"detail": "d"}, "error"), StreamError(500, "server_error", "d")),
    "nothing said": (event({"error": {"code": 1}}), StreamError(500, "server_error", "the stream ended with an error")),
}


@pytest.mark.parametrize(("frame", "error"), FRAMES.values(), ids=FRAMES)
def test_an_error_frame_ends_the_stream_and_what_had_come_is_kept(frame: bytes, error: StreamError) -> None:
    made = folded(chunk({"role": "assistant", "content": "Hal"}), frame)
    assert made.error == error
    assert not made.complete
    assert made.body is not None
    assert content(made.body) == "Hal"
    assert made.body["error"].items() >= {"type": error.type, "message": error.message}.items()
    assert set(made.body) == {"id", "object", "model", "choices", "error"}


@pytest.mark.parametrize(("frame", "error"), FRAMES.values(), ids=FRAMES)
def test_a_stream_may_be_an_error_frame_alone(frame: bytes, error: StreamError) -> None:
    made = folded(frame)
    assert made.error == error
    assert made.body is not None
    assert set(made.body) == {"error"}


def test_all_that_the_error_says_is_kept() -> None:
    error = {"type": "invalid_request_error", "message": "m", "code": 418, "param": "p", "metadata": {"raw": [1]}}
    assert body(event({"error": error})) == {"error": error}


def test_a_chunk_that_carries_an_error_is_folded_too() -> None:
    choice = {"index": 0, "delta": {"content": "!"}, "finish_reason": "error"}
    last = {"id": "chatcmpl-1", "error": {"code": 502, "message": "Provider disconnected"}, "choices": [choice]}
    made = folded(chunk({"content": "Hey"}), event(last), event(b"[DONE]"))
    assert made.error == StreamError(502, "server_error", "Provider disconnected")
    assert made.complete
    assert made.body is not None
    assert content(made.body) == "Hey!"
    assert made.body["choices"][0]["finish_reason"] == "error"


def test_the_first_error_counts() -> None:
    made = folded(event({"error": {"message": "one", "code": 429}}), event({"error": {"message": "two", "code": 500}}))
    assert made.error == StreamError(429, "rate_limit_error", "one")


def test_no_error_is_none() -> None:
    quiet: dict[str, Any] = {"object": "chat.completion.chunk", "choices": [], "error": None}
    assert folded(event(quiet), event({**quiet, "error": {}})).error is None


STATUSES: list[tuple[dict[str, Any], int]] = [
    ({"code": 429}, 429),
    ({"code": "503"}, 503),
    ({"status": 404}, 404),
    ({"http_status": 599}, 599),
    ({"status_code": 400}, 400),
    ({"code": "model_not_found", "type": "invalid_request_error"}, 404),
    ({"code": "insufficient_quota", "type": "insufficient_quota"}, 429),
    ({"code": "rate_limit_exceeded", "type": "tokens"}, 429),
    ({"code": "invalid_api_key", "type": "invalid_request_error"}, 401),
    ({"type": "invalid_request_error", "code": "odd"}, 400),
    ({"type": "authentication_error"}, 401),
    ({"type": "billing_error"}, 402),
    ({"type": "permission_error"}, 403),
    ({"type": "not_found_error"}, 404),
    ({"type": "request_too_large"}, 413),
    ({"type": "rate_limit_error"}, 429),
    ({"type": "api_error"}, 500),
    ({"type": "timeout_error"}, 504),
    ({"type": "overloaded_error"}, 529),
    ({"code": "invalid_prompt"}, 400),
    ({"type": "RATE_LIMIT_ERROR"}, 429),
    ({"code": 200}, 500),
    ({"code": 600}, 600),
    ({"code": "5000"}, 500),
    ({"code": "\u0665\u0660\u0663"}, 500),
    ({"code": True}, 500),
    ({"code": None, "status": "odd"}, 500),
    ({"code": [429], "type": {"a": 1}, "message": 5}, 500),
    ({}, 500),
]


@pytest.mark.parametrize(("error", "status"), STATUSES, ids=str)
def test_the_status_of_an_error(error: dict[str, Any], status: int) -> None:
    made = folded(event({"error": {"message": "m", **error}})).error
    assert made is not None
    assert made.status == status


def test_a_tool_that_failed_within_a_response_is_no_error_of_the_stream() -> None:
    failed = {"type": "response.mcp_call.failed", "item_id": "mcp_1", "output_index": 0, "error": {"message": "no"}}
    assert folded(named(failed)).error is None


def test_a_failed_response_is_an_error_and_its_object_is_kept_as_it_is() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Slow down"}
    response = {"id": "resp_1", "object": "response", "status": "failed", "error": error, "output": []}
    created = {"type": "response.created", "response": {**response, "status": "in_progress", "error": None}}
    made = folded(named(created), named({"type": "response.failed", "response": response}))
    wanted = StreamError(429, "rate_limit_exceeded", "Slow down")
    assert made == Folded(response, complete=True, error=wanted, truncated=False)


def test_a_response_that_failed_without_a_word_is_an_error_too() -> None:
    made = folded(named({"type": "response.failed", "response": {"id": "r", "status": "failed", "error": None}}))
    assert made.error == StreamError(500, "server_error", "the stream ended with an error")


def test_an_enormous_error_is_described() -> None:
    made = folded(event({"error": {"code": 502, "message": "m" * 100_000, "raw": "r" * 100_000}}))
    assert made.body is not None
    assert made.body["error"].keys() == {"status", "type", "message"}
    assert len(made.body["error"]["message"]) == 8192

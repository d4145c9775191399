"""Helpers of the reader's tests: rows that need no database, and answers as upstreams give them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from openai.types.responses import Response

from rwriter import CompletedRequest, RequestDetail
from rwriter.asgi._render.response import response_object
from rwriter.store import detail_of
from tests.support.records import record

STARTED: Final = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)

USAGE: Final = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def chat_record(message: dict[str, Any], *, finish: str = "stop", **changes: Any) -> CompletedRequest:
    """A finished chat completion with one choice."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_772_600_000,
        "model": "gpt-test-2026",
        "choices": [{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}],
        "usage": USAGE,
    }
    request = {"model": "gpt-test", "messages": [{"role": "user", "content": "hello"}]}
    fields: dict[str, Any] = {
        "endpoint": "/v1/chat/completions",
        "request_body": json.dumps(request),
        "response_body": json.dumps(body),
        "started_at": STARTED,
        "completed_at": STARTED + timedelta(seconds=2),
    }
    return record(**(fields | changes))


def response_body(**changes: Any) -> dict[str, Any]:
    """A Responses object as an upstream answers it."""
    text = {"type": "output_text", "text": "hi there", "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    body: dict[str, Any] = {
        "id": "resp_upstream",
        "object": "response",
        "created_at": 1_772_600_000,
        "status": "completed",
        "model": "gpt-test-2026",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "a_field_of_tomorrow": {"kept": True},
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 18,
        },
    }
    return body | changes


def response_record(body: dict[str, Any] | str | None = None, **changes: Any) -> CompletedRequest:
    """A finished call of ``/v1/responses``."""
    given = response_body() if body is None else body
    fields: dict[str, Any] = {"response_body": given if isinstance(given, str) else json.dumps(given)}
    return record(**(fields | changes))


def rendered(finished: CompletedRequest, asked_id: str | None = None) -> dict[str, Any]:
    """The Response object of the row that ``finished`` will be."""
    return response_object(detail_of(finished), asked_id)


def strict(response: dict[str, Any]) -> Response:
    """``response`` as the official client's own model of it, which must find nothing wrong."""
    return Response.model_validate(response)


def row(**changes: Any) -> RequestDetail:
    """A row of ``/v1/responses`` in ``processing``; ``changes`` are fields of ``RequestDetail``."""
    finished = detail_of(record(started_at=STARTED, completed_at=STARTED))
    fields = {name: getattr(finished, name) for name in RequestDetail.__struct_fields__}
    nothing = dict.fromkeys(("completed_at", "duration_ms", "response_status", "response_body", "error"))
    return RequestDetail(**(fields | nothing | {"status": "processing"} | changes))

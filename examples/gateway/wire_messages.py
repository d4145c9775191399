"""Anthropic's format: the ``message`` object, the events it is streamed in, and its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from examples.gateway.answers import Answer, compact, halves, tokens

Json = dict[str, Any]

_OVERLOADED: Final = 529
_ERROR_TYPES: Final[dict[int, str]] = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    _OVERLOADED: "overloaded_error",
}


def message(body: Json, answer: Answer) -> Json:
    """Return the whole answer."""
    return _begun(body, answer) | {
        "content": _content(answer),
        "stop_reason": _stop_reason(answer),
        "usage": _usage(answer, answer.spoken),
    }


def events(body: Json, answer: Answer) -> Iterator[Json]:
    """Yield the same answer, as it is streamed."""
    yield {"type": "message_start", "message": _begun(body, answer)}
    for index, block in enumerate(_content(answer)):
        yield {"type": "content_block_start", "index": index, "content_block": _empty(block)}
        if index == 0:
            yield {"type": "ping"}
        for delta in _deltas(answer, index):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": answer.spoken}}
    yield {"type": "message_stop"}


def error(status: int, text: str) -> Json:
    """Return an error, as the body of an answer or as an event of a stream."""
    kind = _ERROR_TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": text}}


def error_event(_number: int) -> Json:
    """Return the error that takes the place of an event where the model breaks."""
    return error(_OVERLOADED, "Overloaded")


def frame(event: Json) -> bytes:
    """Return an event as a server-sent one."""
    return f"event: {event['type']}\ndata: {compact(event)}\n\n".encode()


def _begun(body: Json, answer: Answer) -> Json:
    return {
        "id": f"msg_{answer.key[:24]}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(answer, 1),
    }


def _content(answer: Answer) -> list[Json]:
    if not answer.calls:
        return [{"type": "text", "text": answer.text}]
    names = [{"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name} for call in answer.calls]
    return [name | {"input": json.loads(call.arguments)} for name, call in zip(names, answer.calls, strict=True)]


def _empty(block: Json) -> Json:
    blank: Json = {"text": ""} if block["type"] == "text" else {"input": {}}
    return block | blank


def _deltas(answer: Answer, index: int) -> Iterator[Json]:
    if answer.calls:
        for half in halves(answer.calls[index].arguments):
            yield {"type": "input_json_delta", "partial_json": half}
    for token in tokens(answer.text):
        yield {"type": "text_delta", "text": token}


def _stop_reason(answer: Answer) -> str:
    if answer.calls:
        return "tool_use"
    return "max_tokens" if answer.cut_short else "end_turn"


def _usage(answer: Answer, spoken: int) -> Json:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": answer.asked, **cache, "output_tokens": spoken, "service_tier": "standard"}

"""The Responses API's format: the ``response`` object, and the events it is streamed in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from examples.gateway.answers import CREATED, Answer, Call, compact, halves, tokens

Event = dict[str, Any]

_ECHOED: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Fields the API repeats from the request, with its values for those the request leaves out."""


def response(body: Event, answer: Answer) -> Event:
    """Return the whole answer."""
    finished = {
        "status": "incomplete" if answer.cut_short else "completed",
        "completed_at": None if answer.cut_short else CREATED + 1,
        "incomplete_details": {"reason": "max_output_tokens"} if answer.cut_short else None,
        "output": [_item(answer, index) for index in range(len(answer.calls) or 1)],
        "usage": {
            "input_tokens": answer.asked,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answer.spoken,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.asked + answer.spoken,
        },
    }
    return _begun(body, answer) | finished


def events(body: Event, answer: Answer) -> Iterator[Event]:
    """Yield the same answer, as it is streamed."""
    for number, event in enumerate(_events(body, answer)):
        yield event | {"sequence_number": number}


def error_event(number: int) -> Event:
    """Return the error that takes the place of event ``number`` where the model breaks."""
    message = "The model failed in the middle of its answer."
    return {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": number}


def frame(event: Event) -> bytes:
    """Return an event as a server-sent one."""
    return f"event: {event['type']}\ndata: {compact(event)}\n\n".encode()


def _begun(body: Event, answer: Answer) -> Event:
    return {
        "id": f"resp_{answer.key}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": [],
        "usage": None,
        **{name: body.get(name, default) for name, default in _ECHOED.items()},
    }


def _events(body: Event, answer: Answer) -> Iterator[Event]:
    begun, done = _begun(body, answer), response(body, answer)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(done["output"]):
        place = {"output_index": index}
        yield {"type": "response.output_item.added", **place, "item": _empty(item)}
        place["item_id"] = item["id"]
        yield from _call_events(answer.calls[index], place) if answer.calls else _text_events(item, place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{done['status']}", "response": done}


def _text_events(item: Event, place: Event) -> Iterator[Event]:
    place = place | {"content_index": 0}
    [part] = item["content"]
    yield {"type": "response.content_part.added", **place, "part": part | {"text": ""}}
    for token in tokens(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": token, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _call_events(call: Call, place: Event) -> Iterator[Event]:
    for half in halves(call.arguments):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": half}
    yield {"type": "response.function_call_arguments.done", **place, "name": call.name, "arguments": call.arguments}


def _item(answer: Answer, index: int) -> Event:
    if answer.calls:
        call = answer.calls[index]
        names = {"id": f"fc_{call.id}", "type": "function_call", "call_id": f"call_{call.id}", "name": call.name}
        return names | {"arguments": call.arguments, "status": "completed"}
    return {
        "id": f"msg_{answer.key}",
        "type": "message",
        "role": "assistant",
        "status": "incomplete" if answer.cut_short else "completed",
        "content": [{"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}],
    }


def _empty(item: Event) -> Event:
    blank: Event = {"arguments": ""} if item["type"] == "function_call" else {"content": []}
    return item | blank | {"status": "in_progress"}

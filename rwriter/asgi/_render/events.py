"""Renders a Response object as the server-sent events that build it, each text in one delta."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from rwriter.asgi import _json
from rwriter.asgi._json import objects_in, text_or_empty

Event = dict[str, Any]
"""An event with its ``type``, before it gets a ``sequence_number``."""

_ENDS: Final = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "queued": "response.queued",
    "in_progress": "response.in_progress",
}


def opening_events(response: dict[str, Any]) -> Iterator[Event]:
    """Yield the two events that say a response has begun; of a queued one only the first."""
    status = "queued" if response["status"] == "queued" else "in_progress"
    begun = response | {"status": status, "output": [], "usage": None, "error": None}
    begun |= {"completed_at": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    if status == "in_progress":
        yield {"type": "response.in_progress", "response": begun}


def closing_events(response: dict[str, Any]) -> Iterator[Event]:
    """Yield every event after the opening of a finished response.

    There is no event for a cancelled one: it ends in ``response.failed``, whose response says ``cancelled``.
    """
    for index, item in enumerate(response["output"]):
        if isinstance(item, dict):
            yield from _item_events(item, index)
    yield {"type": _ENDS.get(response["status"], "response.failed"), "response": response}


def error_event(code: str, message: str) -> Event:
    """Make the last event of a stream that cannot go on."""
    return {"type": "error", "code": code, "message": message, "param": None}


def numbered(events: Iterable[Event], first: int) -> Iterator[Event]:
    """Yield ``events`` with sequence numbers, counted from ``first``."""
    for number, event in enumerate(events, first):
        yield event | {"sequence_number": number}


def frame(event: Event) -> bytes:
    """Return one server-sent event as bytes for the wire."""
    return f"event: {event['type']}\ndata: ".encode() + _json.dumps(event) + b"\n\n"


def _item_events(item: dict[str, Any], index: int) -> Iterator[Event]:
    where = {"item_id": text_or_empty(item.get("id")), "output_index": index}
    emptied, parts = _ITEMS.get(text_or_empty(item.get("type")), _whole)(item, where)
    yield {"type": "response.output_item.added", "output_index": index, "item": emptied}
    yield from parts
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


_Emptied = tuple[dict[str, Any], Iterable[Event]]
"""An output item before its content came, and the events that bring the content."""


def _whole(item: dict[str, Any], where: dict[str, Any]) -> _Emptied:  # noqa: ARG001 -- one of _ITEMS
    return item, ()


def _message(item: dict[str, Any], where: dict[str, Any]) -> _Emptied:
    begun = item | {"status": "in_progress", "content": []}
    return begun, (event for place, part in _placed(item, "content", where) for event in _part(part, place))


def _function_call(item: dict[str, Any], where: dict[str, Any]) -> _Emptied:
    begun, text = item | {"status": "in_progress", "arguments": ""}, text_or_empty(item.get("arguments"))
    return begun, _delta_and_done("response.function_call_arguments", "arguments", text, where)


def _custom_call(item: dict[str, Any], where: dict[str, Any]) -> _Emptied:
    text = text_or_empty(item.get("input"))
    return item | {"input": ""}, _delta_and_done("response.custom_tool_call_input", "input", text, where)


def _reasoning(item: dict[str, Any], where: dict[str, Any]) -> _Emptied:
    begun = item | {"status": "in_progress", "summary": []}
    if "content" in item:
        begun["content"] = []
    return begun, _thought(item, where)


def _thought(item: dict[str, Any], where: dict[str, Any]) -> Iterator[Event]:
    for number, part in enumerate(objects_in(item.get("summary"))):
        yield from _summary(part, where | {"summary_index": number})
    for place, part in _placed(item, "content", where):
        yield from _part(part, place)


_ITEMS: Final[dict[str, Callable[[dict[str, Any], dict[str, Any]], _Emptied]]] = {
    "message": _message,
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "reasoning": _reasoning,
}


def _placed(item: dict[str, Any], name: str, where: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for number, part in enumerate(objects_in(item.get(name))):
        yield where | {"content_index": number}, part


def _part(part: dict[str, Any], place: dict[str, Any]) -> Iterator[Event]:
    kind = part.get("type")
    if kind not in _PARTS:
        yield {"type": "response.content_part.added", "part": part, **place}
        yield {"type": "response.content_part.done", "part": part, **place}
        return
    name, field = _PARTS[kind]
    text = text_or_empty(part.get(field))
    emptied = part | {field: ""}
    if kind == "output_text":
        emptied["annotations"] = []
    yield {"type": "response.content_part.added", "part": emptied, **place}
    delta, done = _delta_and_done(name, field, text, place)
    if kind == "output_text":
        logprobs = {"logprobs": part.get("logprobs") or []}
        yield delta | logprobs
        yield from _notes(part, place)
        yield done | logprobs
    else:
        yield from (delta, done)
    yield {"type": "response.content_part.done", "part": part, **place}


_PARTS: Final = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
}


def _notes(part: dict[str, Any], place: dict[str, Any]) -> Iterator[Event]:
    kind = "response.output_text.annotation.added"
    for number, note in enumerate(objects_in(part.get("annotations"))):
        yield {"type": kind, "annotation_index": number, "annotation": note, **place}


def _summary(part: dict[str, Any], place: dict[str, Any]) -> Iterator[Event]:
    text = text_or_empty(part.get("text"))
    yield {"type": "response.reasoning_summary_part.added", "part": part | {"text": ""}, **place}
    yield from _delta_and_done("response.reasoning_summary_text", "text", text, place)
    yield {"type": "response.reasoning_summary_part.done", "part": part, **place}


def _delta_and_done(name: str, field: str, text: str, place: dict[str, Any]) -> tuple[Event, Event]:
    return {"type": f"{name}.delta", "delta": text, **place}, {"type": f"{name}.done", field: text, **place}

"""Renders the input of a request as the items of ``GET /responses/{id}/input_items``."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi import _json
from rwriter.store import RequestDetail

_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
_FINISHED: Final = ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")


def input_items(detail: RequestDetail) -> list[dict[str, Any]]:
    """Return the items of the request's ``input`` in their order, each with a unique id.

    A text becomes one message of the user. An item that came without an id gets the same one at each reading. Requests
    without an ``input`` (chat completions, a body that was not kept) have no items.
    """
    given = _json.loads_object(detail.body).get("input")
    seen: set[str] = set()
    items = []
    for number, value in enumerate(given if isinstance(given, list) else [given]):
        item = _item(value)
        if item is None:
            continue
        identity = item.get("id")
        # paging after the first of two items with one id would never reach the second
        if not isinstance(identity, str) or not identity or identity in seen:
            prefix = _PREFIXES.get(str(item.get("type")), "item")
            identity = f"{prefix}_{detail.id.hex}_in{number}"
        seen.add(identity)
        items.append(item | {"id": identity})
    return items


def _item(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        value = {"role": "user", "content": value}
    if not isinstance(value, dict):
        return None
    item = {"type": "message"} | value if "role" in value else value
    if item.get("type") in _FINISHED:
        item = {"status": "completed"} | item
    if item.get("type") == "message" and isinstance(item.get("content"), str):
        item = item | {"content": [_part(item["content"], str(item.get("role")))]}
    return item


def _part(text: str, role: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}

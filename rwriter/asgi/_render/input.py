"""Renders the input of a request as the items of ``GET /responses/{id}/input_items``."""

from __future__ import annotations

import bisect
import re
from typing import Any, Final

import msgspec

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
_UNREADABLE: Final[dict[str, Any]] = {"type": "unreadable"}
_NUMBER: Final = re.compile(r"_in([0-9]{1,9})\Z")


class _Given(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw(b"")


class _Head(msgspec.Struct):
    id: Any = None


_GIVEN: Final = msgspec.json.Decoder(_Given)
_HEAD: Final = msgspec.json.Decoder(_Head)
_VALUES: Final = msgspec.json.Decoder(list[msgspec.Raw])


class InputItems:
    """The items of a request's ``input`` in their order, each with a unique id.

    A text is one message of the user. An item that came without an id gets the same one at each reading. Requests
    without an ``input`` (chat completions, a body that was not kept) have no items. Only the items of a page are
    rendered; of the others no more is read than their ids.
    """

    def __init__(self, detail: RequestDetail) -> None:
        self._hex: Final = detail.id.hex
        self._values: Final = _values(detail.body)
        self._places: Final[list[int]] = []
        """Where the items stand among the values: what is neither a text nor an object is no item."""
        self._own: Final[dict[str, int]] = {}
        """The ids that items came with. Of two items with one id, paging after the first must reach the second."""
        for place, value in enumerate(self._values):
            if value.startswith((b'"', b"{")):
                self._places.append(place)
                if b'"id"' in value:
                    self._own.setdefault(_id_in(value), place)
        self._own.pop("", None)
        self._named: Final = {place: identity for identity, place in self._own.items()}

    def page(self, *, limit: int, ascending: bool, after: str | None) -> tuple[list[dict[str, Any]], bool] | None:
        """Return up to ``limit`` items that follow ``after``, and True if there are more; ``None`` for no such item."""
        places = self._places
        if after is not None:
            index = self._index_of(after)
            if index is None:
                return None
            places = places[index + 1 :] if ascending else places[:index]
        chosen = places[:limit] if ascending else places[: -limit - 1 : -1]
        return [self._item(place) for place in chosen], len(places) > limit

    def _index_of(self, identity: str) -> int | None:
        place = self._own.get(identity)
        if place is None:
            made = _NUMBER.search(identity)
            place = -1 if made is None else int(made[1])
        index = bisect.bisect_left(self._places, place)
        is_there = index < len(self._places) and self._places[index] == place
        return index if is_there and self._item(place)["id"] == identity else None

    def _item(self, place: int) -> dict[str, Any]:
        item = _item(_json.loads(self._values[place]))
        identity = self._named.get(place)
        if identity is None:
            prefix = _PREFIXES.get(str(item.get("type")), "item")
            identity = f"{prefix}_{self._hex}_in{place}"
        return item | {"id": identity}


def _values(body: str) -> list[bytes]:
    try:
        given = bytes(_GIVEN.decode(_json.mended(body)).input).strip()
        return [bytes(value) for value in _VALUES.decode(given)] if given.startswith(b"[") else [given]
    except _json.UNREADABLE:
        value = _json.loads_object(body).get("input")
        return [_json.dumps(item) for item in (value if isinstance(value, list) else [value])]


def _id_in(value: bytes) -> str:
    try:
        return _json.text_or_empty(_HEAD.decode(value).id)
    except _json.UNREADABLE:
        return _json.text_or_empty(_json.loads_object(value).get("id"))


def _item(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = {"role": "user", "content": value}
    if not isinstance(value, dict):
        return _UNREADABLE  # nested without end
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

"""Renders the input of a request as the items of ``GET /responses/{id}/input_items``."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from rwriter.asgi import _json
from rwriter.asgi._slices import items_of
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
_NO_PLACE: Final = -1


class InputItems:
    """The items of a request's ``input`` in their order, each with a unique id.

    A text is one message of the user. An item that came without an id gets the same one at each reading. Requests
    without an ``input`` (chat completions, a body that was not kept) have no items. Values are made of the items of a
    page alone, and only some thousand others are held as they are written: a page costs no more memory in a large body.
    """

    def __init__(self, detail: RequestDetail) -> None:
        self._hex: Final = detail.id.hex
        self._given: Final = _given(detail.body)
        self._has_ids: Final = b'"id"' in self._given

    def page(self, *, limit: int, ascending: bool, after: str | None) -> tuple[list[dict[str, Any]], bool] | None:
        """Return up to ``limit`` items that follow ``after``, and True if there are more; ``None`` for no such item."""
        bound = None if after is None else self._place_of(after)
        if bound == _NO_PLACE:
            return None
        # one more than asked for tells that there are more
        found = list(self._first(limit + 1, bound) if ascending else self._last(limit + 1, bound))
        return self._named(found[:limit]), len(found) > limit

    def _items(self) -> Iterator[Iterator[_Placed]]:
        """Yield the items, a slice at a time: what is neither a text nor an object is a value, and no item."""
        count = 0
        for values in items_of(self._given) if self._given.startswith(b"[") else [[msgspec.Raw(self._given)]]:
            yield _items_in(values, count)
            count += len(values)

    def _first(self, number: int, after: int | None) -> Iterator[_Placed]:
        start = 0 if after is None else after + 1
        following = (item for items in self._items() for item in items if item[0] >= start)
        return itertools.islice(following, number)

    def _last(self, number: int, before: int | None) -> Iterator[_Placed]:
        last: deque[_Placed] = deque(maxlen=number)
        for items in self._items():
            if before is None:
                last.extend(items)
                continue
            slice_ = list(items)
            last.extend(item for item in slice_ if item[0] < before)
            if slice_ and slice_[-1][0] >= before:
                break
        return reversed(last)

    def _place_of(self, identity: str) -> int:
        own = self._own_places({identity}).get(identity)
        if own is not None:
            return own
        made = _NUMBER.search(identity)
        placed = [] if made is None else list(self._first(1, int(made[1]) - 1))
        is_there = bool(placed) and self._named(placed)[0]["id"] == identity
        return placed[0][0] if is_there else _NO_PLACE

    def _own_places(self, identities: Collection[str]) -> dict[str, int]:
        """Return where the first item of each of these ids stands, if one came with it."""
        found: dict[str, int] = {}
        for items in self._items() if self._has_ids and identities else ():
            for place, value in items:
                if b'"id"' in value:
                    identity = _id_in(value)
                    if identity in identities:
                        found.setdefault(identity, place)
            if len(found) == len(identities):
                break
        return found

    def _named(self, placed: list[_Placed]) -> list[dict[str, Any]]:
        """Return the items that stand there. Of two with one id, paging after the first must reach the second."""
        came_with = {place: _id_in(value) for place, value in placed if b'"id"' in value}
        first = self._own_places({identity for identity in came_with.values() if identity})
        return [self._item(place, value, first.get(came_with.get(place, "")) == place) for place, value in placed]

    def _item(self, place: int, value: bytes, keeps_its_id: bool) -> dict[str, Any]:
        item = _item(_json.loads(value))
        if keeps_its_id:
            return item
        prefix = _PREFIXES.get(str(item.get("type")), "item")
        return item | {"id": f"{prefix}_{self._hex}_in{place}"}


_Placed = tuple[int, bytes]
"""An item as it is written, behind its place among the values."""


def _items_in(values: list[msgspec.Raw], first: int) -> Iterator[_Placed]:
    written = enumerate(map(bytes, values), first)
    return (item for item in written if item[1].startswith((b'"', b"{")))


def _given(body: str) -> bytes:
    """Return the ``input`` of a request as it is written."""
    try:
        return bytes(_GIVEN.decode(_json.mended(body)).input).strip()
    except _json.UNREADABLE:
        return _json.dumps(_json.loads_object(body).get("input"))


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

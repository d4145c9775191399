"""Folds chunks of chat and text completions into the object that is answered without streaming."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from msgspec import Raw

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.tree import Budget, Indexed, Node
from rwriter.asgi._json import encode

DONE: Final[dict[str, Any]] = {"type": "[DONE]"}
"""Stands for ``data: [DONE]``, the only event that is no JSON."""

_STREAM_ONLY: Final = frozenset({"obfuscation", "error"})
_ONCE: Final = frozenset({"id", "type", "role", "format"})
"""Strings that some providers repeat in each chunk: the first is the value, they do not continue each other."""
_LONGEST_INDEX: Final = 7
"""Digits of a number that comes as a text."""
_DEPTH: Final = 4
"""Levels of a delta that are merged. A deeper object is replaced by the next."""
_INSTEAD_OF_CONTENT: Final = ("tool_calls", "function_call", "refusal", "audio")


_PADDED: Final = re.compile(r"=+(?=[A-Za-z0-9+/])")
"""The padding of base64 in the middle of a text: two pieces that were encoded apart."""


class CompletionsFold:
    """Folds one ``chat.completion`` or ``text_completion``.

    ``[DONE]`` ends it, and a finish reason of each of its choices says that nothing is missing.
    """

    failure: dict[str, Any] | None = None
    markers: Final = frozenset({"[DONE]"})

    def __init__(self, budget: Budget) -> None:
        self._done = False
        self._budget = budget
        self._top: Node = {}
        self._choices = Indexed()
        self._texts = False
        self._finished: set[int] = set()
        # places of numbered items, by list, number, type and id: some providers number all of them 0
        self._slots: dict[tuple[int, int, Any, Any], int] = {}
        self._calls: dict[int, _Calls] = {}

    @property
    def complete(self) -> bool:
        """True once the end marker, or a finish reason of every choice, has come."""
        return self._done or (bool(self._finished) and len(self._finished) == len(self._choices))

    def add(self, event: dict[str, Any]) -> None:
        """Take one chunk. A field that is in every chunk keeps its last value."""
        top = self._top
        self._done = self._done or event is DONE
        if type(event.get("choices")) is not list and type(event.get("object")) is not str:
            return
        for key, value in event.items():
            if top.get(key) == value is not None:
                continue  # true of nearly all fields in nearly all chunks
            if key == "choices":
                top.setdefault(key, None)  # keeps its place among the fields
                self._add_choices(value)
            elif key == "usage":
                self._add_usage(value)
            elif key == "x_groq" and type(value) is dict and value.get("usage"):
                self._add_usage(value["usage"])
            elif key not in _STREAM_ONLY and (value != 0 or not top.get(key)):
                tree.set_value(top, key, value, self._budget)

    def _add_usage(self, usage: Any) -> None:
        """Keep the latest counts. An object without any, or of zeros, replaces none."""
        if type(usage) is not dict or any(usage.values()) or not self._top.get("usage"):
            tree.set_value(self._top, "usage", usage, self._budget)

    def event_too_large(self, name: str) -> None:
        """Do nothing: a chunk has no event name, so there is nothing to conclude from an oversized one."""

    def _add_choices(self, choices: Any) -> None:
        for choice in choices if type(choices) is list else ():
            if type(choice) is not dict:
                continue
            number = _number(choice.get("index"))
            node = tree.ensure_item(self._choices, number, self._budget)
            if node is not None:
                self._add_choice(node, choice)
            if choice.get("finish_reason"):
                self._finished.add(number)

    def _add_choice(self, node: Node, choice: dict[str, Any]) -> None:
        for key, value in choice.items():
            kind = type(value)
            if key == "delta" and kind is dict:
                self._add_delta(node, value)
            elif key == "message" and kind is dict:
                self._set_message(node, value)
            elif key == "usage" and kind is dict:
                self._add_usage(value)
            elif key == "text" and kind is str:
                self._texts = True
                tree.add_text(node, key, value, self._budget)
            elif key == "logprobs" and kind is dict:
                self._add_logprobs(node, value)
            elif key not in {"index", "delta"}:
                tree.set_value(node, key, value, self._budget)

    def _set_message(self, node: Node, whole: dict[str, Any]) -> None:
        """Take a whole message: as the stream's only chunk, or in place of the pieces that came before."""
        message = tree.ensure_object(node, "message", self._budget)
        if message is None:
            return
        if not message:
            self._add_delta(node, whole)
            return
        for key, value in whole.items():
            if value:
                tree.set_value(message, key, value, self._budget)

    def _add_logprobs(self, node: Node, logprobs: dict[str, Any]) -> None:
        held = tree.ensure_object(node, "logprobs", self._budget)
        if held is None:
            return
        for key, value in logprobs.items():
            if type(value) in {list, Raw}:
                tree.extend(held, key, value, self._budget)
            else:
                tree.set_value(held, key, value, self._budget)

    def _add_delta(self, node: Node, delta: dict[str, Any]) -> None:
        message = tree.ensure_object(node, "message", self._budget)
        if message is None:
            return
        calls = delta.get("tool_calls")
        if type(calls) is list:
            delta = {key: value for key, value in delta.items() if key != "tool_calls"}
            self._add_calls(message, calls)
        self._merge(message, delta)

    def _add_calls(self, message: Node, pieces: list[Any]) -> None:
        calls = tree.ensure_list(message, "tool_calls", self._budget)
        if calls is None:
            return
        places = self._calls.setdefault(id(calls), _Calls(calls))
        for piece in pieces:
            if type(piece) is not dict:
                continue
            node = tree.ensure_item(calls, places.of(piece), self._budget)
            if node is not None:
                self._add_call(node, piece)

    def _add_call(self, node: Node, piece: dict[str, Any]) -> None:
        fields = {key: value for key, value in piece.items() if key != "index"}
        function = fields.get("function")
        if type(function) is dict and type(function.get("arguments")) is dict:
            # an object where a text belongs
            arguments = encode(function["arguments"]).decode()
            fields["function"] = {**function, "arguments": arguments}
        self._merge(node, fields)

    def _merge(self, node: Node, delta: dict[str, Any], depth: int = _DEPTH) -> None:
        for key, value in delta.items():
            kind = type(value)
            if kind is str:
                _merge_text(node, key, value, self._budget)
            elif kind is dict and depth:
                held = tree.ensure_object(node, key, self._budget)
                if held is not None:
                    self._merge(held, value, depth - 1)
            elif kind is list and depth:
                self._merge_list(node, key, value, depth)
            elif kind is Raw and depth:
                tree.extend(node, key, value, self._budget)
            else:
                tree.set_value(node, key, value, self._budget)

    def _merge_list(self, node: Node, key: str, values: list[Any], depth: int) -> None:
        """Merge items with an ``index`` into the items of that number and type, and append all others."""
        if not values or type(values[0]) is not dict or type(values[0].get("index")) is not int:
            tree.extend(node, key, values, self._budget)
            return
        held = tree.ensure_list(node, key, self._budget)
        for value in values if held is not None else ():
            if type(value) is dict and held is not None:
                one = tree.ensure_item(held, self._slot(held, value), self._budget)
                if one is not None:
                    self._merge(one, value, depth - 1)

    def _slot(self, held: Indexed, value: dict[str, Any]) -> int:
        """Return the place of a numbered item: its number, unless an item of another type or id has that."""
        number = _number(value.get("index"))
        place = (id(held), number, _hashable(value.get("type")), _hashable(value.get("id")))
        if place not in self._slots:
            self._slots[place] = number if held.get(number) in (None, {}) else len(held)
            # pieces without a type or an id go on with the item of their number that came last
            for anonymous in ((*place[:2], None, None), (*place[:3], None)):
                self._slots[anonymous] = self._slots[place]
        return self._slots[place]

    def render(self) -> dict[str, Any]:
        """Return the object built so far."""
        body: dict[str, Any] = tree.render(self._top)
        texts = self._texts or str(body.get("object")).startswith("text_completion")
        body["object"] = "text_completion" if texts else "chat.completion"
        body["choices"] = [_choice(index, tree.render(self._choices[index]), texts) for index in sorted(self._choices)]
        return body


class _Calls:
    """Finds the tool call that a piece continues, in constant time."""

    def __init__(self, calls: Indexed) -> None:
        self._calls: Final = calls
        self._by_id: Final[dict[str, int]] = {}
        self._last = -1

    def of(self, piece: dict[str, Any]) -> int:
        """Return the number of the tool call that ``piece`` continues.

        That is its ``index``, unless it has none or its id differs from that of the call there: some providers send
        every call whole under number 0.
        """
        place = self._place(piece)
        identity = piece.get("id")
        if type(identity) is str and identity:
            self._by_id.setdefault(identity, place)
        self._last = max(self._last, place)
        return place

    def _place(self, piece: dict[str, Any]) -> int:
        index, identity = _index(piece), piece.get("id")
        same = self._by_id.get(identity) if type(identity) is str and identity else None
        if index is None:
            if same is not None:
                return same
            return self._fresh() if identity or self._begins(piece) else max(self._last, 0)
        held = self._calls.get(index)
        if type(held) is not dict or not identity or not held.get("id") or held["id"] == identity:
            return index
        if same is not None:
            return same
        return self._fresh() if _name_of(piece) else index

    def _fresh(self) -> int:
        return max(self._last, len(self._calls) - 1) + 1

    def _begins(self, piece: dict[str, Any]) -> bool:
        """Return True if a piece without a number or an id begins a call: it has a name, and the last its arguments."""
        last = self._calls.get(self._last)
        function = last.get("function") if type(last) is dict else None
        return bool(_name_of(piece)) and type(function) is dict and bool(function.get("arguments"))


def _name_of(piece: dict[str, Any]) -> Any:
    function = piece.get("function")
    return function.get("name") if type(function) is dict else None


def _index(piece: dict[str, Any]) -> int | None:
    index = piece.get("index")
    if type(index) is str and index.isascii() and index.isdigit() and len(index) < _LONGEST_INDEX:
        index = int(index)
    return index if type(index) is int and index >= 0 else None


def _number(value: Any) -> int:
    return _index({"index": value}) or 0


def _hashable(value: Any) -> Any:
    return value if type(value) in {str, int} else None


def _merge_text(node: Node, key: str, value: str, budget: Budget) -> None:
    if key in _ONCE:
        if not node.get(key):
            tree.set_value(node, key, value, budget)
    elif key == "name" and tree.render(node.get(key)) == value:
        return  # repeated in each chunk, by some
    else:
        tree.add_text(node, key, value, budget)


def _choice(index: int, choice: dict[str, Any], texts: bool) -> dict[str, Any]:
    whole: dict[str, Any] = {"index": index, **choice}
    if texts:
        whole.setdefault("text", "")
    else:
        whole["message"] = _message(whole.get("message"))
    whole.setdefault("finish_reason", None)
    return whole


def _message(message: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"role": "assistant", "content": None, **(message if type(message) is dict else {})}
    audio = whole.get("audio")
    if type(audio) is dict and type(audio.get("data")) is str:
        whole["audio"] = {**audio, "data": _joined(audio["data"])}
    if whole.get("refusal") == "":
        whole["refusal"] = None
    if whole["content"] == "" and any(whole.get(key) for key in _INSTEAD_OF_CONTENT):
        whole["content"] = None
    return whole


def _joined(data: str) -> str:
    """Return base64 whose pieces were padded each for itself as one."""
    if _PADDED.search(data) is None:
        return data
    pieces = _PADDED.sub(lambda match: match[0] + " ", data).split(" ")
    try:
        return base64.b64encode(b"".join(base64.b64decode(piece, validate=True) for piece in pieces)).decode()
    except binascii.Error:
        return data

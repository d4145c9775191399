"""Folds chunks of chat and text completions into the object that is answered without streaming."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from msgspec import Raw

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.places import ids_of, name_of, number_of
from rwriter.asgi._fold.tree import Indexed, Node, Text
from rwriter.asgi._json import encode

DONE: Final[dict[str, Any]] = {"type": "[DONE]"}
"""Stands for ``data: [DONE]``, the only event that is no JSON."""

_STREAM_ONLY: Final = frozenset({"obfuscation", "error"})
_ONCE: Final = frozenset({"id", "type", "role", "format"})
"""Strings that some providers repeat in each chunk: the first is the value, they do not continue each other."""
_REPEATED: Final = _ONCE | {"name"}
"""Strings of which not every piece is more text: a name is, unless it is told again."""
_OBJECTS: Final = frozenset({dict, list})
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
    other_id: str | None = None
    markers: Final = frozenset({"[DONE]"})

    def __init__(self, budget: Budget) -> None:
        self._done = False
        self._budget = budget
        self._top: Node = {}
        self._choices = Indexed(budget)
        self._texts = False
        self._finished: set[int] = set()

    @property
    def complete(self) -> bool:
        """True once the end marker, or a finish reason of every choice, has come."""
        return self._done or (bool(self._finished) and len(self._finished) == len(self._choices))

    def add(self, event: dict[str, Any]) -> None:
        """Take one chunk. A field that is in every chunk keeps its last value, and its first id."""
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
            elif key == "id" and top.get(key):
                self.other_id = name_of(value) or self.other_id
            elif key == "usage":
                self._add_usage(value)
            elif key == "x_groq" and type(value) is dict and value.get("usage"):
                self._add_usage(value["usage"])
            elif key not in _STREAM_ONLY and (value != 0 or not top.get(key)):
                tree.set_value(top, key, value, self._budget)

    def _add_usage(self, usage: Any) -> None:
        if type(usage) is dict:
            tree.merge_counts(self._top, "usage", usage, self._budget)
        elif not self._top.get("usage"):
            tree.set_value(self._top, "usage", usage, self._budget)

    def event_too_large(self, name: str) -> None:
        """Do nothing: a chunk has no event name, so there is nothing to conclude from an oversized one."""

    def _add_choices(self, choices: Any) -> None:
        for choice in choices if type(choices) is list else ():
            if type(choice) is not dict:
                continue
            number = number_of(choice.get("index")) or 0
            node = self._choices.get(number) or tree.ensure_item(self._choices, number, self._budget)
            if node is not None:
                self._add_choice(node, choice)
            if choice.get("finish_reason"):
                self._finished.add(number)

    def _add_choice(self, node: Node, choice: dict[str, Any]) -> None:
        for key, value in choice.items():
            if value is None and key in node:
                continue  # true of the finish reason in nearly all chunks
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
            if type(value) in tree.LISTS:
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
        for piece in pieces:
            if type(piece) is dict:
                number = number_of(piece.pop("index", None))  # of the wire alone: it is no field of a call
                node = tree.ensure_item(calls, _place_of_call(calls, number, piece), self._budget)
                if node is not None:
                    self._add_call(node, piece)

    def _add_call(self, node: Node, piece: dict[str, Any]) -> None:
        function = piece.get("function")
        if type(function) is dict and type(function.get("arguments")) in _OBJECTS:
            # an object where a text belongs: it comes whole
            arguments = function.pop("arguments")
            self._merge(node, piece)
            held = tree.ensure_object(node, "function", self._budget)
            if held is not None:
                tree.set_value(held, "arguments", encode(arguments).decode(), self._budget)
        else:
            self._merge(node, piece)

    def _merge(self, node: Node, delta: dict[str, Any], depth: int = _DEPTH) -> None:
        for key, value in delta.items():
            kind, held = type(value), node.get(key)
            if kind is str:
                if type(held) is Text and key not in _REPEATED:
                    held += self._budget.fit(value)
                elif held is None and key not in _ONCE:
                    tree.set_first_piece(node, key, value, self._budget)
                elif not held or key not in _ONCE:
                    _merge_text(node, key, value, self._budget)
            elif kind is dict and depth:
                held = tree.ensure_object(node, key, self._budget)
                if held is not None:
                    self._merge(held, value, depth - 1)
            elif kind in tree.LISTS and depth:
                self._merge_list(node, key, value, depth)
            elif value is None or value is not held:
                tree.set_value(node, key, value, self._budget)

    def _merge_list(self, node: Node, key: str, values: list[Any] | Raw, depth: int) -> None:
        """Merge items with an ``index`` into the items of that number and type, and append all others."""
        if isinstance(values, Raw) or not values or type(values[0]) is not dict or "index" not in values[0]:
            tree.extend(node, key, values, self._budget)
            return
        held = tree.ensure_list(node, key, self._budget)
        if held is None:
            return
        for value in values:
            if type(value) is dict:
                number, kind, ids = number_of(value.get("index")), name_of(value.get("type")), ids_of(value.get("id"))
                one = tree.ensure_item(held, held.places.place_of(number, kind, ids), self._budget)
                if one is not None:
                    self._merge(one, value, depth - 1)

    def render(self) -> dict[str, Any]:
        """Return the object built so far."""
        body: dict[str, Any] = tree.render(self._top)
        texts = self._texts or str(body.get("object")).startswith("text_completion")
        body["object"] = "text_completion" if texts else "chat.completion"
        body["choices"] = [_choice(index, tree.render(self._choices[index]), texts) for index in sorted(self._choices)]
        return body


def _place_of_call(calls: Indexed, number: int | None, piece: dict[str, Any]) -> int:
    """Return the place of the tool call that ``piece`` continues, or of the one that it begins."""
    ids, places = ids_of(piece.get("id")), calls.places
    if not ids and not _name_of(piece):
        return places.place_of(number)  # nearly all pieces: more of the arguments
    place = places.known(ids)
    if place is not None:
        return place
    place = places.find(number)
    if place is None or _begins_another(calls.get(place), piece, is_numbered=number is not None):
        return places.open(number, ids=ids)
    return places.learn(place, number, ids=ids)


def _begins_another(held: Any, piece: dict[str, Any], *, is_numbered: bool) -> bool:
    """Return True if ``piece`` begins a call beside the one in ``held``, that of its number, whose id is another.

    A piece with a name does if that call has an id and it has one too; or if that call has its arguments, and another
    name or no number. Some providers send every call whole under number 0, or without a number and an id.
    """
    name, identity = _name_of(piece), piece.get("id")
    function = held.get("function") if type(held) is dict else None
    function = function if type(function) is dict else {}
    if type(held) is dict and identity and held.get("id"):
        return bool(name) or not is_numbered
    if not name or not function.get("name") or not function.get("arguments"):
        return False
    return not (is_numbered and _is_text(function["name"], name))


def _name_of(piece: dict[str, Any]) -> Any:
    function = piece.get("function")
    return function.get("name") if type(function) is dict else None


def _is_text(held: Any, value: Any) -> bool:
    """Return True if the text that is held is ``value``. A held text of another length is not looked at."""
    return type(value) is str and (held == value if type(held) is str else held == encode(value)[1:-1])


def _merge_text(node: Node, key: str, value: str, budget: Budget) -> None:
    if key in _ONCE:
        if not node.get(key):
            tree.set_value(node, key, value, budget)
    elif key == "name" and _is_text(node.get(key), value):
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

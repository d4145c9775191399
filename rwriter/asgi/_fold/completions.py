"""Folds chunks of chat and text completions into the object that is answered without streaming."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.tree import Budget, Indexed, Node

DONE: Final[dict[str, Any]] = {"type": "[DONE]"}
"""Stands for ``data: [DONE]``, the only event that is no JSON."""

_STREAM_ONLY: Final = frozenset({"obfuscation", "error"})
_ONCE: Final = frozenset({"id", "type", "role", "name", "format"})
"""Strings that some providers repeat in each chunk: the first is the value, they do not continue each other."""
_DEPTH: Final = 4
"""Levels of a delta that are merged. A deeper object is replaced by the next."""
_INSTEAD_OF_CONTENT: Final = ("tool_calls", "function_call", "refusal", "audio")


class CompletionsFold:
    """Folds one ``chat.completion`` or ``text_completion``. Only ``[DONE]`` ends it."""

    failure: dict[str, Any] | None = None
    markers: Final = frozenset({"[DONE]"})

    def __init__(self, budget: Budget) -> None:
        self.complete = False
        self._budget = budget
        self._top: Node = {}
        self._choices = Indexed()
        self._texts = False

    def add(self, event: dict[str, Any]) -> None:
        """Take one chunk. A field that is in every chunk keeps its last value."""
        top = self._top
        self.complete = self.complete or event is DONE
        if type(event.get("choices")) is not list and type(event.get("object")) is not str:
            return
        for key, value in event.items():
            if top.get(key) == value is not None:
                continue  # true of nearly all fields in nearly all chunks
            if key == "choices":
                top.setdefault(key, None)  # keeps its place among the fields
                self._add_choices(value)
            elif key not in _STREAM_ONLY:
                tree.set_value(top, key, value, self._budget)

    def event_too_large(self, name: str) -> None:
        """Do nothing: a chunk has no event name, so there is nothing to conclude from an oversized one."""

    def _add_choices(self, choices: Any) -> None:
        for choice in choices if type(choices) is list else ():
            if type(choice) is not dict:
                continue
            node = tree.ensure_item(self._choices, _number(choice.get("index")), self._budget)
            if node is not None:
                self._add_choice(node, choice)

    def _add_choice(self, node: Node, choice: dict[str, Any]) -> None:
        for key, value in choice.items():
            kind = type(value)
            if key == "delta" and kind is dict:
                self._add_delta(node, value)
            elif key == "message" and kind is dict:
                if "delta" not in choice:  # the whole message as the stream's only chunk
                    self._add_delta(node, value)
            elif key == "text" and kind is str:
                self._texts = True
                tree.add_text(node, key, value, self._budget)
            elif key == "logprobs" and kind is dict:
                self._add_logprobs(node, value)
            elif key not in {"index", "delta"}:
                tree.set_value(node, key, value, self._budget)

    def _add_logprobs(self, node: Node, logprobs: dict[str, Any]) -> None:
        held = tree.ensure_object(node, "logprobs", self._budget)
        if held is None:
            return
        for key, value in logprobs.items():
            if type(value) is list:
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
        _merge(message, delta, self._budget)

    def _add_calls(self, message: Node, pieces: list[Any]) -> None:
        calls = tree.ensure_list(message, "tool_calls", self._budget)
        for piece in pieces if calls is not None else ():
            if type(piece) is not dict or calls is None:
                continue
            node = tree.ensure_item(calls, _place(calls, piece), self._budget)
            if node is not None:
                _merge(node, {key: value for key, value in piece.items() if key != "index"}, self._budget)

    def render(self) -> dict[str, Any]:
        """Return the object built so far."""
        body: dict[str, Any] = tree.render(self._top)
        texts = self._texts or str(body.get("object")).startswith("text_completion")
        body["object"] = "text_completion" if texts else "chat.completion"
        body["choices"] = [_choice(index, tree.render(self._choices[index]), texts) for index in sorted(self._choices)]
        return body


def _number(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _merge(node: Node, delta: dict[str, Any], budget: Budget, depth: int = _DEPTH) -> None:
    for key, value in delta.items():
        kind = type(value)
        if kind is str:
            _merge_text(node, key, value, budget)
        elif kind is dict and depth:
            held = tree.ensure_object(node, key, budget)
            if held is not None:
                _merge(held, value, budget, depth - 1)
        elif kind is list and depth:
            _merge_list(node, key, value, budget, depth)
        else:
            tree.set_value(node, key, value, budget)


def _merge_text(node: Node, key: str, value: str, budget: Budget) -> None:
    if key not in _ONCE:
        tree.add_text(node, key, value, budget)
    elif not node.get(key):
        tree.set_value(node, key, value, budget)


def _merge_list(node: Node, key: str, values: list[Any], budget: Budget, depth: int) -> None:
    """Merge items with an ``index`` into the items of that number, and append all others."""
    if not values or type(values[0]) is not dict or type(values[0].get("index")) is not int:
        tree.extend(node, key, values, budget)
        return
    held = tree.ensure_list(node, key, budget)
    for value in values if held is not None else ():
        if type(value) is dict and held is not None:
            one = tree.ensure_item(held, _number(value.get("index")), budget)
            if one is not None:
                _merge(one, value, budget, depth - 1)


def _place(calls: Indexed, piece: dict[str, Any]) -> int:
    """Return the number of the tool call that ``piece`` continues.

    That is its ``index``, unless it has none or its id differs from that of the call there: some providers send every
    call whole under number 0.
    """
    index, identity, last = piece.get("index"), piece.get("id"), max(calls, default=-1)
    same = next((number for number, call in calls.items() if identity and call.get("id") == identity), None)
    if type(index) is not int or index < 0:
        return same if same is not None else last + 1 if identity else max(last, 0)
    held = calls.get(index)
    if held is None or not identity or not held.get("id") or held["id"] == identity:
        return index
    function = piece.get("function")
    named = type(function) is dict and function.get("name")
    return same if same is not None else last + 1 if named else index


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
    if whole.get("refusal") == "":
        whole["refusal"] = None
    if whole["content"] == "" and any(whole.get(key) for key in _INSTEAD_OF_CONTENT):
        whole["content"] = None
    return whole

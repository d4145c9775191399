"""Folds events of the Responses API into the final ``response``, or into as much of it as came."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from msgspec import Raw

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.tree import Budget, Indexed, Node

_LAST: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done"}
)
_CLOSING: Final = ("status", "error", "incomplete_details", "usage", "completed_at")
"""Fields that are kept of a final response that is too large."""


class _Place(NamedTuple):
    """The place of a text: ``item[key]``, or ``item[parts][number][key]``.

    The types are those of an item and a part that were not announced.
    """

    key: str
    item_type: str
    parts: str | None = None
    part_type: str = ""


_PLACES: Final = {
    "response.output_text": _Place("text", "message", "content", "output_text"),
    "response.refusal": _Place("refusal", "message", "content", "refusal"),
    "response.reasoning_text": _Place("text", "reasoning", "content", "reasoning_text"),
    "response.reasoning_summary_text": _Place("text", "reasoning", "summary", "summary_text"),
    "response.function_call_arguments": _Place("arguments", "function_call"),
    "response.mcp_call_arguments": _Place("arguments", "mcp_call"),
    "response.custom_tool_call_input": _Place("input", "custom_tool_call"),
    "response.code_interpreter_call_code": _Place("code", "code_interpreter_call"),
}
_PARTS: Final = {
    "response.content_part": _Place("", "message", "content"),
    "response.reasoning_summary_part": _Place("", "reasoning", "summary"),
}
_NUMBERS: Final = {"content": "content_index", "summary": "summary_index"}


class ResponsesFold:
    """Folds one ``response``. The last event carries it whole; the others build it until then."""

    markers: Final = frozenset[str]()

    def __init__(self, budget: Budget) -> None:
        self.complete = False
        self.failure: dict[str, Any] | None = None
        self._budget = budget
        self._top: Node = {}
        self._output = Indexed()
        # places of items by their own id, and of those whose number another item has
        self._slots: dict[str, int] = {}
        self._strays: dict[tuple[int, str], int] = {}
        self._last_slot = -1

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        kind, response = event.get("type"), event.get("response")
        if type(kind) is not str:
            return
        if kind in _LAST:
            self._finish(kind, response if type(response) is dict else {})
        elif type(response) is dict:
            for key, value in response.items():
                tree.set_value(self._top, key, value, self._budget)
        else:
            self._add_part(kind, event)

    def event_too_large(self, name: str) -> None:
        """Finish the response if the event that ends it was too large to be taken."""
        if name in _LAST:
            self._finish(name, {})

    def _finish(self, kind: str, response: dict[str, Any]) -> None:
        again, self.complete = self.complete, True
        if kind == "response.failed":
            error = response.get("error")
            self.failure = error if type(error) is dict else {}
        if again and not response.get("output"):
            # told twice: what came before is not measured for each
            self._close(response)
            return
        whole = tree.thaw(response)
        streamed = 0 if response.get("output") else tree.size_of(self._output)
        if response and self._budget.restart(tree.size_of(whole) + streamed):
            self._top = whole
            if not streamed:
                self._output.clear()
                self._budget.exceeded = False
            return
        self._close(response)

    def _close(self, response: dict[str, Any]) -> None:
        for key in _CLOSING:
            if key in response:
                tree.set_value(self._top, key, response[key], self._budget)

    def _add_part(self, kind: str, event: dict[str, Any]) -> None:
        stem, _, step = kind.rpartition(".")
        if stem in _PLACES:
            self._add_text(_PLACES[stem], step, event)
        elif stem in _PARTS:
            self._set_part(_PARTS[stem], step, event)
        elif stem == "response.output_item":
            self._set_item(step, event)
        elif kind == "response.output_text.annotation.added":
            node = self._node(_PLACES["response.output_text"], event)
            if node is not None:
                tree.extend(node, "annotations", [event.get("annotation")], self._budget)

    def _add_text(self, place: _Place, step: str, event: dict[str, Any]) -> None:
        text = event.get("delta" if step == "delta" else place.key)
        node = self._node(place, event) if type(text) is str else None
        if node is None or type(text) is not str:
            return
        if step == "done":
            tree.set_value(node, place.key, text, self._budget)
            return
        tree.add_text(node, place.key, text, self._budget)
        logprobs = event.get("logprobs")
        if type(logprobs) in {list, Raw} and logprobs:
            tree.extend(node, "logprobs", logprobs, self._budget)

    def _set_part(self, place: _Place, step: str, event: dict[str, Any]) -> None:
        part, item = event.get("part"), self._item(place, event)
        parts = None if item is None or place.parts is None else tree.ensure_list(item, place.parts, self._budget)
        if parts is None or type(part) is not dict or place.parts is None:
            return
        number = _number(event.get(_NUMBERS[place.parts]))
        if step == "done":
            tree.replace(parts, number, part, self._budget)
        else:
            self._open(parts, number, tree.thaw(part))

    def _set_item(self, step: str, event: dict[str, Any]) -> None:
        item = event.get("item")
        if type(item) is not dict:
            return
        number = self._slot(item.get("id"), event.get("output_index"), item.get("type"))
        if step == "done":
            tree.replace(self._output, number, item, self._budget)
        else:
            self._open(self._output, number, _thawed_item(item))

    def _slot(self, identity: Any, index: Any, kind: Any) -> int:
        """Return the place of an item: that of its own id, else its number, unless another item stands there."""
        named = type(identity) is str and bool(identity)
        if named and identity in self._slots:
            return self._slots[identity]
        slot = _number(index)
        held = self._output.get(slot)
        if held is not None and type(held) is dict and not _may_be(held, identity if named else None, kind):
            slot = self._strays.setdefault((slot, identity if named else str(kind)), self._fresh_slot())
        elif held is not None and type(held) is not dict and named:
            slot = self._fresh_slot()  # finished, and another's id: a finished item is found by its own
        if named:
            self._slots[identity] = slot
        self._last_slot = max(self._last_slot, slot)
        return slot

    def _fresh_slot(self) -> int:
        return self._last_slot + 1

    def _open(self, list_: Indexed, number: int, node: Node) -> None:
        if self._budget.swap(tree.size_of(list_.get(number, "")), tree.size_of(node) + tree.NODE):
            list_[number] = node

    def _node(self, place: _Place, event: dict[str, Any]) -> Node | None:
        """Return the item or part that ``event`` continues; ``None`` if that is finished or the budget is spent."""
        item = self._item(place, event)
        if item is None or place.parts is None:
            return item
        parts = tree.ensure_list(item, place.parts, self._budget)
        if parts is None:
            return None
        part = tree.ensure_item(parts, _number(event.get(_NUMBERS[place.parts])), self._budget)
        if part is not None and not part:
            part["type"] = place.part_type
        return part

    def _item(self, place: _Place, event: dict[str, Any]) -> Node | None:
        number = self._slot(event.get("item_id"), event.get("output_index"), place.item_type)
        item = tree.ensure_item(self._output, number, self._budget)
        if item is not None and not item:
            tree.set_value(item, "id", event.get("item_id"), self._budget)
            item |= {"type": place.item_type, "status": "in_progress"}
            if place.item_type == "message":
                item["role"] = "assistant"
        return item

    def render(self) -> dict[str, Any]:
        """Return the response built so far."""
        body: dict[str, Any] = {"object": "response", **tree.render(self._top)}
        if self._output or "output" not in body:
            body["output"] = tree.render(self._output)
        return body


def _number(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _thawed_item(item: dict[str, Any]) -> Node:
    node = tree.thaw(item)
    for key in _NUMBERS:
        parts = item.get(key)
        if type(parts) is list:
            node[key] = Indexed(enumerate(tree.thaw(part) for part in parts if type(part) is dict))
    return node


def _may_be(held: Node, identity: str | None, kind: Any) -> bool:
    """Return True if an item of that id and type may be the one in ``held``."""
    known = held.get("id")
    if identity is not None and known:
        return bool(known == identity)
    return not held.get("type") or not kind or bool(held["type"] == kind)

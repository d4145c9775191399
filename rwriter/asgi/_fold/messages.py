"""Folds events of the Anthropic Messages API into one ``message``."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.tree import Budget, Indexed, JsonText, Node

EVENTS: Final = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    }
)
_BLOCK_TYPES: Final = {"input_json_delta": "tool_use", "thinking_delta": "thinking", "signature_delta": "thinking"}
"""Type of a block that was not announced, by the type of its first delta; ``text`` for any other."""


class MessagesFold:
    """Folds one ``message``. If the input of a tool is cut, the partial JSON is kept as a text."""

    markers: Final = frozenset({"message_stop"})

    def __init__(self, budget: Budget) -> None:
        self.complete = False
        self.failure: dict[str, Any] | None = None
        self._budget = budget
        self._top: Node = {}
        self._blocks = Indexed()

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        kind = event.get("type")
        if kind == "content_block_delta":
            self._add_delta(event.get("index"), event.get("delta"))
        elif kind == "content_block_start":
            self._open(event.get("index"), event.get("content_block"))
        elif kind == "message_start":
            self._add_fields(event.get("message"))
        elif kind == "message_delta":
            self._add_fields(event.get("delta"))
            self._add_fields({key: value for key, value in event.items() if key not in {"type", "delta"}})
        elif kind == "message_stop":
            self.complete = True

    def event_too_large(self, name: str) -> None:
        """Do nothing: the event that ends a message is never large."""

    def _add_fields(self, fields: Any) -> None:
        for key, value in fields.items() if type(fields) is dict else ():
            if key == "content" and type(value) is list:
                self._top.setdefault(key, None)  # keeps its place among the fields
                for index, block in enumerate(value):
                    self._open(index, block)
            elif key == "usage" and type(value) is dict:
                self._add_usage(value)
            else:
                tree.set_value(self._top, key, value, self._budget)

    def _add_usage(self, usage: dict[str, Any]) -> None:
        """Merge token counts: each is a total so far, so a new one replaces the old."""
        held = self._top.setdefault("usage", {})
        for key, value in usage.items() if type(held) is dict else ():
            tree.set_value(held, key, value, self._budget)

    def _open(self, index: Any, block: Any) -> None:
        if type(index) is not int or type(block) is not dict:
            return
        node = tree.thaw(block)
        if self._budget.swap(tree.size_of(self._blocks.get(index, "")), tree.size_of(node) + tree.NODE):
            self._blocks[index] = node

    def _add_delta(self, index: Any, delta: Any) -> None:
        if type(index) is not int or type(delta) is not dict:
            return
        block = tree.ensure_item(self._blocks, index, self._budget)
        if block is None:
            return
        if not block:
            kind = delta.get("type")
            block["type"] = _BLOCK_TYPES.get(kind, "text") if type(kind) is str else "text"
        for key, value in delta.items():
            if key != "type":
                self._add_piece(block, key, value)

    def _add_piece(self, block: Node, key: str, value: Any) -> None:
        if key == "citation":
            tree.extend(block, "citations", [value], self._budget)
        elif type(value) is not str or key == "signature":  # a signature comes whole
            tree.set_value(block, key, value, self._budget)
        elif key != "partial_json":
            tree.add_text(block, key, value, self._budget)
        elif value:
            tree.add_text(block, "input", value, self._budget, JsonText)

    def render(self) -> dict[str, Any]:
        """Return the message built so far."""
        body: dict[str, Any] = {"type": "message", "role": "assistant", **tree.render(self._top)}
        body["content"] = tree.render(self._blocks)
        return body

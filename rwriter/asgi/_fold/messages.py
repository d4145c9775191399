"""Events of the Anthropic Messages API into one ``message``."""

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
"""Types of blocks that were not announced; any other is text."""


class MessagesFold:
    """One ``message``. Input of a tool that was cut is kept as the text that had come."""

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

    def skip(self, name: str) -> None:
        """Nothing: none that can be too large ends the message."""

    def _add_fields(self, fields: Any) -> None:
        for key, value in fields.items() if type(fields) is dict else ():
            if key == "content" and type(value) is list:
                self._top.setdefault(key, None)  # its place among the others
                for index, block in enumerate(value):
                    self._open(index, block)
            elif key == "usage" and type(value) is dict:
                self._add_usage(value)
            else:
                tree.put(self._top, key, value, self._budget)

    def _add_usage(self, usage: dict[str, Any]) -> None:
        """Counts are totals so far: those that came again replace, the others stay."""
        held = self._top.setdefault("usage", {})
        for key, value in usage.items() if type(held) is dict else ():
            tree.put(held, key, value, self._budget)

    def _open(self, index: Any, block: Any) -> None:
        if type(index) is not int or type(block) is not dict:
            return
        node = tree.opened(block)
        if self._budget.swap(tree.size_of(self._blocks.get(index, "")), tree.size_of(node) + tree.NODE):
            self._blocks[index] = node

    def _add_delta(self, index: Any, delta: Any) -> None:
        if type(index) is not int or type(delta) is not dict:
            return
        block = tree.entry(self._blocks, index, self._budget)
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
            tree.put(block, key, value, self._budget)
        elif key != "partial_json":
            tree.add_text(block, key, value, self._budget)
        elif value:
            tree.add_text(block, "input", value, self._budget, JsonText)

    def render(self) -> dict[str, Any]:
        """The message so far."""
        body: dict[str, Any] = {"type": "message", "role": "assistant", **tree.render(self._top)}
        body["content"] = tree.render(self._blocks)
        return body

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


_DISTINCT: Final = frozenset({"text", "thinking"})
"""Types of blocks whose pieces cannot be one another's."""


class MessagesFold:
    """Folds one ``message``. If the input of a tool is cut, the partial JSON is kept as a text."""

    markers: Final = frozenset({"message_stop"})

    def __init__(self, budget: Budget) -> None:
        self.complete = False
        self.failure: dict[str, Any] | None = None
        self._budget = budget
        self._top: Node = {}
        self._blocks = Indexed()
        # the latest block that was opened under an index, and the latest of all
        self._slots: dict[int, int] = {}
        self._open_slot: int | None = None
        self._last_slot = -1
        # blocks of deltas whose type is another than that of the block they point at
        self._strays: dict[tuple[int, str], int] = {}

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
            self.complete = self.complete or bool(self._top.get("stop_reason"))
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
            # a zero after a count is a placeholder
            if value != 0 or not held.get(key):
                tree.set_value(held, key, value, self._budget)

    def _open(self, index: Any, block: Any) -> None:
        if type(block) is not dict:
            return
        slot = self._slot_to_open(index, block)
        node = tree.thaw(block)
        if self._budget.swap(tree.size_of(self._blocks.get(slot, "")), tree.size_of(node) + tree.NODE):
            self._blocks[slot] = node
            self._open_slot = slot
            self._last_slot = max(self._last_slot, slot)
            if type(index) is int:
                self._slots[index] = slot

    def _slot_to_open(self, index: Any, block: dict[str, Any]) -> int:
        """Return the place of a block that begins: its index, unless another block has that."""
        held = self._blocks.get(index) if type(index) is int else None
        if type(index) is int and index >= 0 and (held is None or _announces_again(held, block)):
            return index
        return self._fresh_slot()

    def _fresh_slot(self) -> int:
        self._last_slot += 1
        return self._last_slot

    def _add_delta(self, index: Any, delta: Any) -> None:
        if type(delta) is not dict:
            return
        slot = self._slot_of(index, delta)
        block = tree.ensure_item(self._blocks, slot, self._budget)
        if block is None:
            return
        if not block:
            block["type"] = _type_of(delta)
        for key, value in delta.items():
            if key != "type":
                self._add_piece(block, key, value)

    def _slot_of(self, index: Any, delta: dict[str, Any]) -> int:
        """Return the block that ``delta`` continues: the one of its index, else the open one, if its type fits."""
        slot = self._slots.get(index, index) if type(index) is int and index >= 0 else self._open_slot
        if slot is None:
            slot = self._fresh_slot()
        held, wanted = self._blocks.get(slot), _type_of(delta)
        if held and wanted in _DISTINCT and held.get("type") in _DISTINCT and held["type"] != wanted:
            stray = slot, wanted
            if stray not in self._strays:
                self._strays[stray] = self._fresh_slot()
            slot = self._strays[stray]
        self._open_slot = slot
        self._last_slot = max(self._last_slot, slot)
        return slot

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


def _type_of(delta: dict[str, Any]) -> str:
    kind = delta.get("type")
    return _BLOCK_TYPES.get(kind, "text") if type(kind) is str else "text"


def _announces_again(held: Node, block: dict[str, Any]) -> bool:
    """Return True if ``block`` is the block that ``held`` is already, announced twice."""
    return held.get("type") == block.get("type") and bool(block.get("id")) and held.get("id") == block.get("id")

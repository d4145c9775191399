"""Folds events of the Anthropic Messages API into one ``message``."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.places import Ids, ids_of, name_of, number_of
from rwriter.asgi._fold.tree import Indexed, JsonText, Node, Text

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
_KINDS: Final = {
    "text_delta": "text",
    "citations_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "input_json_delta": "tool_use",
    "compaction_delta": "compaction",
}
"""Type of the block that a piece belongs to, by the type of the piece. Tools of all makes count as one type."""
_KINDS_BY_KEY: Final = {"text": "text", "thinking": "thinking", "partial_json": "tool_use"}
_WHOLE: Final = frozenset({"signature", "encrypted_content"})
"""Texts that do not come in pieces."""


class MessagesFold:
    """Folds one ``message``. If the input of a tool is cut, the partial JSON is kept as a text."""

    markers: Final = frozenset({"message_stop"})

    def __init__(self, budget: Budget) -> None:
        self.complete = False
        self.failure: dict[str, Any] | None = None
        self.other_id: str | None = None
        self._budget = budget
        self._top: Node = {}
        self._blocks = Indexed(budget)
        # the block that the last piece went to, by what the piece told of it: nearly every piece goes to the same
        self._last: tuple[Any, Node] | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        kind = event.get("type")
        if kind == "content_block_delta":
            self._add_delta(event.get("index"), event.get("delta"))
            return
        self._last = None
        if kind == "content_block_start":
            self._open(event.get("index"), event.get("content_block"))
        elif kind == "message_start":
            self._add_fields(event.get("message"))
        elif kind == "message_delta":
            self._add_fields(event.get("delta"))
            self.complete = self.complete or bool(self._top.get("stop_reason"))
            self._add_fields({key: value for key, value in event.items() if key not in {"type", "delta"}})
        elif kind == "message_stop":
            self.complete = True
            self._add_fields(event.get("message"))
            self._add_fields({key: value for key, value in event.items() if key not in {"type", "message"}})

    def event_too_large(self, name: str) -> None:
        """Do nothing: the event that ends a message is never large."""

    def _add_fields(self, fields: Any) -> None:
        for key, value in fields.items() if type(fields) is dict else ():
            if key == "content" and type(value) is list:
                self._top.setdefault(key, None)  # keeps its place among the fields
                self._take_whole(value)
            elif key == "id" and self._top.get(key) not in {None, value}:
                self.other_id = name_of(value) or self.other_id
            elif key == "usage" and type(value) is dict:
                tree.merge_counts(self._top, key, value, self._budget)
            else:
                tree.set_value(self._top, key, value, self._budget)

    def _take_whole(self, content: list[Any]) -> None:
        """Take whole blocks, each in place of the next one of its type that came in pieces."""
        held: dict[str | None, deque[int]] = {}
        for place in sorted(self._blocks):
            held.setdefault(_kind_of_block(self._blocks[place]), deque()).append(place)
        for number, block in enumerate(content):
            if type(block) is dict:
                kind = _kind_of_block(block)
                of_kind = held.get(kind)
                place = of_kind.popleft() if of_kind else self._blocks.places.open(number, kind, _ids_of(block))
                self._replace(place, tree.thaw(block))

    def _replace(self, place: int, node: Node) -> None:
        held = self._blocks.get(place)
        size = tree.size_of(node) + (tree.NODE if held is None else 0)
        if self._budget.swap(0 if held is None else tree.size_of(held), size):
            self._blocks[place] = node

    def _open(self, index: Any, block: Any) -> None:
        if type(block) is not dict:
            return
        node = tree.thaw(block)
        place = self._blocks.places.announce(
            number_of(index),
            _kind_of_block(block),
            _ids_of(block),
            lambda one: tree.may_be(self._blocks.get(one), node),
        )
        tree.adopt(self._blocks, place, node, self._budget)

    def _add_delta(self, index: Any, delta: Any) -> None:
        if type(delta) is not dict:
            return
        told = index, delta.get("type")
        if self._last is None or self._last[0] != told:
            opened = self._block_of(number_of(index), delta)
            if opened is None:
                return
            self._last = told, opened
        block = self._last[1]
        for key, value in delta.items():
            if key != "type":
                held = block.get(key)
                if type(held) is Text and type(value) is str and key not in _WHOLE:
                    held += self._budget.fit(value)  # nearly all pieces
                else:
                    self._add_piece(block, key, value)

    def _block_of(self, number: int | None, delta: dict[str, Any]) -> Node | None:
        """Return the block that a piece goes on with; ``None`` if the budget is spent."""
        kind = _kind_of_piece(delta)
        block = tree.ensure_item(self._blocks, self._blocks.places.place_of(number, kind), self._budget)
        if block is not None and not block:
            block["type"] = kind or "text"
        return block

    def _add_piece(self, block: Node, key: str, value: Any) -> None:
        if key == "citation":
            tree.extend(block, "citations", [value], self._budget)
        elif type(value) is not str or key in _WHOLE:
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


def _kind_of_piece(delta: dict[str, Any]) -> str | None:
    kind = delta.get("type")
    if type(kind) is str:
        return _KINDS.get(kind)
    return next((kind for key, kind in _KINDS_BY_KEY.items() if key in delta), None)


def _kind_of_block(block: Node) -> str | None:
    kind = name_of(block.get("type"))
    return "tool_use" if kind is not None and kind.endswith("_tool_use") else kind


def _ids_of(block: dict[str, Any]) -> Ids:
    return ids_of(block.get("id"))

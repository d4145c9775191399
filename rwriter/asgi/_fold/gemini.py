"""Folds the pieces of a Gemini answer, events or entries of one array, into the answer without streaming."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.places import number_of
from rwriter.asgi._fold.tree import Indexed, Node

_ONE_TEXT: Final = frozenset({"text", "thought", "thoughtSignature"})
"""Members of a part that goes on with the part before it, if both are thoughts or neither is."""


class GeminiFold:
    """Folds one answer. Complete with the finish reasons of all its candidates, or when the prompt was blocked."""

    markers: Final = frozenset[str]()
    failure: dict[str, Any] | None = None
    other_id: str | None = None

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._top: Node = {}
        self._candidates = Indexed(budget)
        self._finished: set[int] = set()
        self._is_blocked = False

    @property
    def complete(self) -> bool:
        """True once nothing can be missing."""
        every = bool(self._finished) and len(self._finished) == len(self._candidates)
        return every or (self._is_blocked and not self._candidates)

    def add(self, event: dict[str, Any]) -> None:
        """Take one piece. Counts are totals so far; of the other members the last value is kept."""
        for key, value in event.items():
            if key == "candidates" and type(value) is list:
                self._top.setdefault(key, None)  # keeps its place among the members
                for candidate in value:
                    if type(candidate) is dict:
                        self._add_candidate(candidate)
            elif key == "usageMetadata" and type(value) is dict:
                tree.merge_counts(self._top, key, value, self._budget)
            else:
                tree.set_value(self._top, key, value, self._budget)
        feedback = event.get("promptFeedback")
        self._is_blocked = self._is_blocked or (type(feedback) is dict and bool(feedback.get("blockReason")))

    def event_too_large(self, name: str) -> None:
        """Do nothing: a piece has no name, so there is nothing to conclude from an oversized one."""

    def _add_candidate(self, candidate: dict[str, Any]) -> None:
        number = number_of(candidate.get("index")) or 0
        node = tree.ensure_item(self._candidates, number, self._budget)
        if candidate.get("finishReason"):
            self._finished.add(number)
        for key, value in candidate.items() if node is not None else ():
            if node is not None and key == "content" and type(value) is dict:
                self._add_content(node, value)
            elif node is not None:
                tree.set_value(node, key, value, self._budget)

    def _add_content(self, node: Node, content: dict[str, Any]) -> None:
        held = tree.ensure_object(node, "content", self._budget)
        if held is None:
            return
        for key, value in content.items():
            if key != "parts" or type(value) is not list:
                tree.set_value(held, key, value, self._budget)
                continue
            parts = tree.ensure_list(held, key, self._budget)
            for part in value if parts is not None else ():
                if parts is not None and type(part) is dict:
                    self._add_part(parts, part)

    def _add_part(self, parts: Indexed, part: dict[str, Any]) -> None:
        last = parts.get(len(parts) - 1)
        if last is None or not _goes_on(last, part):
            last = tree.ensure_item(parts, len(parts), self._budget)
        for key, value in part.items() if last is not None else ():
            if last is not None and key == "text" and type(value) is str:
                tree.add_text(last, key, value, self._budget)
            elif last is not None:
                tree.set_value(last, key, value, self._budget)

    def render(self) -> dict[str, Any]:
        """Return the answer built so far."""
        body: dict[str, Any] = tree.render(self._top)
        body["candidates"] = tree.render(self._candidates)
        return body


def _goes_on(held: Node, part: dict[str, Any]) -> bool:
    """Return True if ``part`` is more of the text in ``held``."""
    if not (type(part.get("text")) is str and "text" in held and part.keys() <= _ONE_TEXT):
        return False
    return held.keys() <= _ONE_TEXT and bool(held.get("thought")) == bool(part.get("thought"))

"""Folds lines of JSON as Ollama sends them: the message or the text in pieces, and counts on the last line."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.tree import Node

_TEXTS: Final = frozenset({"content", "thinking"})


class LinesFold:
    """Folds one answer. The line that says ``done`` ends it."""

    markers: Final = frozenset[str]()
    failure: dict[str, Any] | None = None
    other_id: str | None = None

    def __init__(self, budget: Budget) -> None:
        self.complete = False
        self._budget = budget
        self._top: Node = {}

    def add(self, event: dict[str, Any]) -> None:
        """Take one line."""
        for key, value in event.items():
            if key == "message" and type(value) is dict:
                self._add_message(value)
            elif key in {"response", "thinking"} and type(value) is str:
                tree.add_text(self._top, key, value, self._budget)
            elif value != 0 or not self._top.get(key):
                tree.set_value(self._top, key, value, self._budget)
        self.complete = self.complete or event.get("done") is True

    def _add_message(self, piece: dict[str, Any]) -> None:
        message = tree.ensure_object(self._top, "message", self._budget)
        if message is None:
            return
        for key, value in piece.items():
            if key in _TEXTS and type(value) is str:
                tree.add_text(message, key, value, self._budget)
            elif type(value) in tree.LISTS:
                tree.extend(message, key, value, self._budget)
            else:
                tree.set_value(message, key, value, self._budget)

    def event_too_large(self, name: str) -> None:
        """Do nothing: a line has no name, so there is nothing to conclude from an oversized one."""

    def render(self) -> dict[str, Any]:
        """Return the answer built so far."""
        body: dict[str, Any] = tree.render(self._top)
        return body

"""The kinds of streams that are known, and how an event tells which it is of."""

from __future__ import annotations

from typing import Any, Protocol

from rwriter.asgi._fold.completions import DONE, CompletionsFold
from rwriter.asgi._fold.messages import EVENTS as MESSAGE_EVENTS
from rwriter.asgi._fold.messages import MessagesFold
from rwriter.asgi._fold.responses import ResponsesFold
from rwriter.asgi._fold.tree import Budget
from rwriter.asgi._json import loads

__all__ = ["DONE", "Fold", "fold_for", "parse"]


class Fold(Protocol):
    """What becomes of a stream's events."""

    @property
    def markers(self) -> frozenset[str]:
        """Types of events that end the stream and carry nothing else."""

    @property
    def complete(self) -> bool:
        """Whether the event came that ends the stream."""

    @property
    def failure(self) -> dict[str, Any] | None:
        """The error object of an answer that ended as failed."""

    def add(self, event: dict[str, Any]) -> None:
        """Take an event; one of another kind changes nothing."""

    def skip(self, name: str) -> None:
        """An event of that name (``""``: none) was too large to be taken."""

    def render(self) -> dict[str, Any]:
        """The object so far."""


def fold_for(event: dict[str, Any], budget: Budget) -> Fold | None:
    """A new fold for the kind of stream that ``event`` is of, ``None`` for an unknown kind."""
    kind = event.get("type")
    if type(kind) is str and kind.startswith("response."):
        return ResponsesFold(budget)
    if type(kind) is str and kind in MESSAGE_EVENTS:
        return MessagesFold(budget)
    return CompletionsFold(budget) if type(event.get("choices")) is list else None


def parse(name: str, data: bytes) -> dict[str, Any] | None:
    """The object an event carries, its ``type`` taken from the event's name where it has none; ``DONE`` itself."""
    if data.strip() == b"[DONE]":
        return DONE
    value = loads(data)
    if type(value) is not dict:
        return None
    if name and "type" not in value and (name in MESSAGE_EVENTS or name.startswith("response.")):
        value["type"] = name
    return value

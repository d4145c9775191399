"""Tells the kind of a stream by its first event, and parses events."""

from __future__ import annotations

from typing import Any, Protocol

from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.completions import DONE, CompletionsFold
from rwriter.asgi._fold.gemini import GeminiFold
from rwriter.asgi._fold.lines import LinesFold
from rwriter.asgi._fold.messages import EVENTS as MESSAGE_EVENTS
from rwriter.asgi._fold.messages import MessagesFold
from rwriter.asgi._fold.responses import ResponsesFold
from rwriter.asgi._json import LARGE, loads, sparse

__all__ = ["DONE", "Fold", "fold_for", "parse"]


class Fold(Protocol):
    """Builds the object of one kind of stream from its events."""

    @property
    def markers(self) -> frozenset[str]:
        """Types of the events that end the stream and carry nothing else."""

    @property
    def complete(self) -> bool:
        """True once the event that ends the stream has come."""

    @property
    def failure(self) -> dict[str, Any] | None:
        """The error object of an answer that ended as failed, else ``None``."""

    @property
    def other_id(self) -> str | None:
        """An id that the client has seen beside the one in the object, ``None`` if the id never changed."""

    def add(self, event: dict[str, Any]) -> None:
        """Take an event. One of another kind changes nothing."""

    def event_too_large(self, name: str) -> None:
        """Take note that an event of that name (``""`` if it has none) came and was too large to be taken."""

    def render(self) -> dict[str, Any]:
        """Return the object built so far."""


def fold_for(event: dict[str, Any], budget: Budget) -> Fold | None:
    """Return a new fold for the kind of stream that ``event`` belongs to, ``None`` for an unknown kind."""
    kind = event.get("type")
    if type(kind) is str and kind.startswith("response."):
        return ResponsesFold(budget)
    if type(kind) is str and kind in MESSAGE_EVENTS:
        return MessagesFold(budget)
    if type(event.get("done")) is bool and (type(event.get("message")) is dict or type(event.get("response")) is str):
        return LinesFold(budget)
    if type(event.get("candidates")) is list or type(event.get("promptFeedback")) is dict:
        return GeminiFold(budget)
    return CompletionsFold(budget) if type(event.get("choices")) is list else None


def parse(name: str, data: bytes) -> dict[str, Any] | None:
    """Return the object that an event carries, with the event's name as its ``type`` if it has none; or ``DONE``.

    Returns ``None`` if the data are no JSON object.
    """
    if data[:1] != b"{":
        data = data.strip()
        if data == b"[DONE]":
            return DONE
    value = loads(data) if len(data) <= LARGE else sparse(data)
    if type(value) is list and value:
        value = value[0]  # an error, as some providers put it
    if type(value) is not dict:
        return None
    if name and "type" not in value and (name in MESSAGE_EVENTS or name.startswith("response.")):
        value["type"] = name
    return value

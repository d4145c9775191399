"""Folds a stream of server-sent events into the object that the same answer is without streaming.

A fold holds the result and not the stream: what it keeps is bounded, whatever passes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from msgspec import to_builtins

from rwriter._values.guarded import Guarded
from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.errors import StreamError, describe, error_in
from rwriter.asgi._fold.events import Event, EventParser
from rwriter.asgi._fold.kinds import DONE, Fold, fold_for, parse
from rwriter.asgi._json import encode

__all__ = ["Folded", "StreamError", "StreamFold"]

_ERROR_BYTES: Final = 16_384
"""A larger error object is replaced by its description."""
_ENVELOPE_BYTES: Final = 1_024
"""Bytes by which an event may be larger than the object it carries."""


class Folded(Guarded, frozen=True):
    """The result of a stream, as far as it has come.

    ``body`` is the folded object (``chat.completion``, ``text_completion``, ``response`` or ``message``), with the
    error of an error frame as its ``error``; ``None`` if no event was of a known kind. ``complete``: the kind's own end
    marker was seen (``[DONE]``; ``response.completed``, ``.incomplete``, ``.failed``; ``message_stop``). ``error``: an
    error frame was seen, or the response failed. ``truncated``: the object outgrew ``max_bytes``, ``body`` holds what
    fitted.
    """

    body: dict[str, Any] | None
    complete: bool
    error: StreamError | None
    truncated: bool

    __shown__: ClassVar[tuple[str, ...]] = ("complete", "truncated")


class StreamFold:
    """Folds a stream of bytes as they pass. Takes any bytes without raising.

    Holds about ``max_bytes`` of JSON for the object and as much for one event. An event is taken when its blank line
    has come, as in any client; only an end marker that carries nothing (``[DONE]``, ``message_stop``) counts without.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._parser: Final = EventParser(max_bytes=max_bytes + _ENVELOPE_BYTES)
        self._budget: Final = Budget(max_bytes)
        self._fold: Fold | None = None
        self._error: dict[str, Any] | None = None
        self._done = False
        self._strange = False
        self._unread = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        for event in self._parser.feed(data):
            self._take(event)

    def finish(self) -> None:
        """Take note that the stream has ended: a last line of JSON needs no newline."""
        event = self._parser.finish()
        if event is not None and parse(event.name, event.data) is not None:
            self._take(event)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the event that has begun."""
        return self._parser.pending_bytes

    @property
    def ended(self) -> bool:
        """True once an end marker or an error frame was seen."""
        return self._error is not None or self._complete

    @property
    def known(self) -> bool:
        """True once an event of a known kind came."""
        return self._fold is not None or self._error is not None

    @property
    def unknown(self) -> bool:
        """True if events came, and none was of a known kind."""
        return self._strange and self._fold is None and self._error is None

    @property
    def other_id(self) -> str | None:
        """An id of the answer that the client has seen beside the one in the body, if its id has changed."""
        return None if self._fold is None else self._fold.other_id

    def result(self) -> Folded:
        """Return what has come so far, without changing anything."""
        failure = None if self._fold is None else self._fold.failure
        error = self._error if self._error is not None else failure
        described = None if error is None else describe(error)
        return Folded(self._body(described), self._complete, described, self._budget.exceeded)

    def _body(self, described: StreamError | None) -> dict[str, Any] | None:
        body = None if self._fold is None else self._fold.render()
        if body is not None and self._unread:
            body["rwriter"] = {"unreadable_events": self._unread}
        if self._error is None or described is None:
            return body
        return {**(body or {}), "error": {"type": described.type, "message": described.message, **self._error}}

    @property
    def _complete(self) -> bool:
        last = self._parser.unfinished
        marker = None if last is None else parse(last.name, last.data)
        if self._fold is None:
            return self._done or marker is DONE
        kind = None if marker is None else marker.get("type")
        return self._fold.complete or (type(kind) is str and kind in self._fold.markers)

    def _take(self, event: Event) -> None:
        if event.lost:
            self._on_lost_event(event.name)
            return
        try:
            value = parse(event.name, event.data)
            if value is not None:
                self._take_object(event.name, value)
            elif not event.data.strip():
                self._strange = True
            elif b"\n" in event.data:
                self._take_lines(event)
            else:
                self._take_unreadable(event)
        except RecursionError:  # nested so deeply that it can be read and cannot be written
            self._take_unreadable(event)

    def _take_lines(self, event: Event) -> None:
        """Take lines that are no JSON together as events of their own: the blank lines between them were lost."""
        lines = [Event(event.name, line) for line in event.data.split(b"\n") if line.strip()]
        values = [parse(line.name, line.data) for line in lines]
        if all(value is None for value in values):
            self._take_unreadable(event)
            return
        for line, value in zip(lines, values, strict=True):
            if value is None:
                self._take_unreadable(line)
            else:
                self._take_object(line.name, value)

    def _take_unreadable(self, event: Event) -> None:
        if event.name == "error":
            self._fail({"message": event.data.decode("utf-8", "replace")})
        else:
            self._strange = True
            self._unread += 1

    def _on_lost_event(self, name: str) -> None:
        self._strange = True
        self._budget.exceeded = True
        if self._fold is not None:
            self._fold.event_too_large(name)

    def _take_object(self, name: str, value: dict[str, Any]) -> None:
        error, fold = error_in(name, value), self._fold
        if error is not None:
            self._fail(error)
        if fold is None:
            fold = self._fold = fold_for(value, self._budget)
        if fold is not None:
            if error is None or "choices" in value:
                fold.add(value)
        elif value is DONE:
            self._done = True
        else:
            self._strange = True

    def _fail(self, error: dict[str, Any]) -> None:
        """Keep the first error; of one too large to keep, its description."""
        if self._error is None:
            self._error = error if len(encode(error)) <= _ERROR_BYTES else to_builtins(describe(error))

"""Server-sent events: bytes in, events out; and a stream of them folded into the object it stands for.

A fold holds the result and not the stream: what it keeps is bounded, whatever passes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import to_builtins

from rwriter.asgi._fold.errors import StreamError, describe, error_in
from rwriter.asgi._fold.kinds import DONE, Fold, fold_for, parse
from rwriter.asgi._fold.tree import Budget
from rwriter.asgi._json import encode

__all__ = ["Event", "EventParser", "Folded", "StreamError", "StreamFold"]

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = 8
"""Bytes charged for a line beside its text."""
_MARKER_BYTES: Final = 256
"""No end marker is longer, with the name of its event."""
_ERROR_BYTES: Final = 16_384
_ENVELOPE_BYTES: Final = 1_024
"""What an event may be larger than the object it carries."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: its ``event:`` name (``""`` without), its data lines joined, whether they were too large to keep."""

    name: str
    data: bytes
    lost: bool = False


class EventParser:
    """Parses a stream of server-sent events as the HTML standard has it, from pieces that may be cut at any byte.

    An event whose data are larger than ``max_bytes`` comes ``lost``: without them, and ``overflowed`` is set.
    ``id:`` and ``retry:`` mean nothing here and are skipped.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.overflowed = False
        self._max_bytes: Final = max_bytes
        self._tail = bytearray()  # of a line that goes on: appending to bytes would copy them each time
        self._skipping = False  # within a line that is too long
        self._after_cr = False
        self._first = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._lost = False

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; the events they complete."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        events: list[Event] = []
        if lines:
            lines[0] = self._completed(lines[0])
        for line in lines:
            if not line:
                self._dispatch(events)
            elif line[:6] == b"data: ":
                self._add(line[6:])
            else:
                self._field(line)
        if rest:
            self._hold(rest)
        return events

    @property
    def unfinished(self) -> Event | None:
        """The event that has begun, as if it ended here; ``None`` if there is none, or it is not short."""
        if not (self._tail or self._data) or self._lost or self._size + len(self._tail) > _MARKER_BYTES:
            return None
        field, value = _split(bytes(self._tail))
        more = [value] if field == b"data" else []
        return Event(self._name, b"\n".join(self._data + more))

    def _completed(self, line: bytes) -> bytes:
        """The line that ``line`` is the end of. One that was too long has become a comment."""
        if self._skipping:
            self._skipping = False
            return b":"
        if self._tail:
            line = bytes(self._tail) + line
            self._tail.clear()
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        return line

    def _hold(self, rest: bytes) -> None:
        if self._skipping:
            return
        self._tail += rest
        if self._tail.startswith(b":"):
            del self._tail[1:]
        elif self._tail.startswith(b"data"):
            if self._size + len(self._tail) > self._max_bytes + _LINE:
                self._lose()
                self._skip()
        elif len(self._tail) > self._max_bytes:
            self._skip()

    def _skip(self) -> None:
        self._tail.clear()
        self._first = False
        self._skipping = True

    def _field(self, line: bytes) -> None:
        name, value = _split(line)
        if name == b"data":
            self._add(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")

    def _add(self, value: bytes) -> None:
        self._size += len(value) + _LINE
        if self._size > self._max_bytes + _LINE:
            self._lose()
        if not self._lost:
            self._data.append(value)

    def _lose(self) -> None:
        self._lost = self.overflowed = True
        self._data = []
        self._size = 0

    def _dispatch(self, events: list[Event]) -> None:
        if self._data or self._lost:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            events.append(Event(self._name, data, self._lost))
            self._data = []
            self._size = 0
            self._lost = False
        self._name = ""


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Name and value of a field. A comment has an empty name."""
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")


class Folded(msgspec.Struct, frozen=True):
    """What has come of a stream.

    ``body`` is the folded object (``chat.completion``, ``text_completion``, ``response`` or ``message``), with the
    error of an error frame as its ``error``; ``None`` when no event was known. ``complete``: the kind's own end marker
    was seen (``[DONE]``; ``response.completed``, ``.incomplete``, ``.failed``; ``message_stop``). ``error``: an error
    frame was seen, or the response failed. ``truncated``: the object outgrew ``max_bytes``, ``body`` holds what fitted.
    """

    body: dict[str, Any] | None
    complete: bool
    error: StreamError | None
    truncated: bool


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

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        for event in self._parser.feed(data):
            self._take(event)

    @property
    def ended(self) -> bool:
        """Whether an end marker or an error frame was seen."""
        return self._error is not None or self._complete

    @property
    def known(self) -> bool:
        """Whether an event of a known kind came."""
        return self._fold is not None or self._error is not None

    @property
    def unknown(self) -> bool:
        """Whether events came, and none was of a known kind."""
        return self._strange and self._fold is None and self._error is None

    def result(self) -> Folded:
        """What has come so far; asking changes nothing."""
        failure = None if self._fold is None else self._fold.failure
        error = self._error if self._error is not None else failure
        described = None if error is None else describe(error)
        return Folded(self._body(described), self._complete, described, self._budget.exceeded)

    def _body(self, described: StreamError | None) -> dict[str, Any] | None:
        body = None if self._fold is None else self._fold.render()
        if self._error is None or described is None:
            return body
        return {**(body or {}), "error": {"type": described.type, "message": described.message, **self._error}}

    @property
    def _complete(self) -> bool:
        begun = self._parser.unfinished
        marker = None if begun is None else parse(begun.name, begun.data)
        if self._fold is None:
            return self._done or marker is DONE
        kind = None if marker is None else marker.get("type")
        return self._fold.complete or (type(kind) is str and kind in self._fold.markers)

    def _take(self, event: Event) -> None:
        if event.lost:
            self._lose(event.name)
            return
        value = parse(event.name, event.data)
        try:
            if value is not None:
                self._take_object(event.name, value)
            elif event.name == "error":
                self._fail({"message": event.data.decode("utf-8", "replace")})
            else:
                self._strange = True
        except RecursionError:  # nested so deep that it can be read and not be written
            self._strange = True

    def _lose(self, name: str) -> None:
        self._strange = True
        self._budget.exceeded = True
        if self._fold is not None:
            self._fold.skip(name)

    def _take_object(self, name: str, value: dict[str, Any]) -> None:
        error = error_in(name, value)
        if error is not None:
            self._fail(error)
        if self._fold is None:
            self._fold = fold_for(value, self._budget)
        if self._fold is not None:
            if error is None or "choices" in value:
                self._fold.add(value)
        elif value is DONE:
            self._done = True
        else:
            self._strange = True

    def _fail(self, error: dict[str, Any]) -> None:
        """The first error counts. Of an enormous one the description is kept."""
        if self._error is None:
            self._error = error if len(encode(error)) <= _ERROR_BYTES else to_builtins(describe(error))

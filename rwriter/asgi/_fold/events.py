"""Server-sent events: bytes in, events out."""

from __future__ import annotations

from typing import Final

from rwriter._values.guarded import Guarded

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = 8
"""Bytes charged for a line beside its text."""
_MARKER_BYTES: Final = 256
"""No end marker is longer, with the name of its event."""


class Event(Guarded, frozen=True, gc=False):
    """One event: its ``event:`` name (``""`` if none) and its data lines, joined.

    ``lost`` if the data were too large to keep.
    """

    name: str
    data: bytes
    lost: bool = False


class EventParser:
    """Parses a stream of server-sent events by the HTML standard, from pieces that may be cut at any byte.

    An event whose data are larger than ``max_bytes`` comes without them, as ``lost``, and sets ``overflowed``.
    ``id:`` and ``retry:`` are ignored.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.overflowed = False
        self._max_bytes: Final = max_bytes
        self._tail = bytearray()  # the unfinished line: appending to bytes would copy them each time
        self._skipping = False  # within a line that is too long
        self._after_cr = False
        self._first = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._lost = False

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes and return the events they complete."""
        if self._after_cr or b"\r" in data:
            data = self._with_newlines(data)
        *lines, rest = data.split(b"\n")
        events: list[Event] = []
        if lines:
            lines[0] = self._completed(lines[0])
        for line in lines:
            if not line:
                if self._data or self._lost:
                    events.append(self._event())
                self._name = ""
            elif line[:6] == b"data: ":
                self._add(line[6:])
            elif line[:7] == b"event: ":
                self._name = line[7:].decode("utf-8", "replace")
            elif line[:1] == b"{" or line[:2] == b"[{":
                # no field, but what some providers end a stream with, and all that lines of JSON are
                events.append(Event("", line))
            else:
                self._field(line)
        if rest:
            self._hold(rest)
        return events

    @property
    def pending_bytes(self) -> int:
        """Bytes of the event that has begun."""
        return self._size + len(self._tail)

    @property
    def unfinished(self) -> Event | None:
        """The event that has begun, as if it ended here; ``None`` if there is none or it is longer than any marker."""
        if not (self._tail or self._data) or self._lost or self._size + len(self._tail) > _MARKER_BYTES:
            return None
        tail = bytes(self._tail)
        if tail[:1] == b"{":
            return Event("", tail)
        field, value = _split(tail)
        more = [value] if field == b"data" else []
        return Event(self._name, b"\n".join(self._data + more))

    def finish(self) -> Event | None:
        """Return the line of JSON that the stream ended with, its newline missing; ``None`` if it ended otherwise."""
        tail = bytes(self._tail)
        if tail[:1] != b"{" and tail[:2] != b"[{":
            return None
        self._tail.clear()
        return Event("", tail)

    def _with_newlines(self, data: bytes) -> bytes:
        """Return ``data`` with each line ending in a newline alone."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _completed(self, line: bytes) -> bytes:
        """Return the whole line that ends with ``line``; a comment in place of one that was too long."""
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

    def _event(self) -> Event:
        """Return the event that has ended, and begin another."""
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = Event(self._name, data, self._lost)
        self._data = []
        self._size = 0
        self._lost = False
        return event


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Split a line into the name and the value of its field. A comment has an empty name."""
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")

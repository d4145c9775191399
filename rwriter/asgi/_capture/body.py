"""A body as it passes, copied up to a limit, and the text that is stored of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

from rwriter.asgi._capture.codings import UndecodableBody, decode, decoders
from rwriter.asgi._capture.facts import skim
from rwriter.asgi._json import to_text

HEAD_BYTES: Final = 64 * 1024
"""Bytes kept of a body that is larger than the limit, and as many of its end while it passes."""
KEPT_MEMBERS: Final = ("id", "object", "type", "model", "status", "usage", "error", "created_at", "created")
"""Members of a JSON body over the limit that are kept, so that its row can be found and read."""
_PIECE_BYTES: Final = 16 * 1024
"""Bytes of a piece that is kept as it came."""
_CODING_LENGTH: Final = 256
"""Characters kept of a ``Content-Encoding``."""


def unlimited(size: int) -> bool:  # noqa: ARG001 -- the signature of a budget
    """Allow any number of bytes."""
    return True


class Body:
    """Collects a body of any size in at most ``max_bytes``; of a larger one only both ends are kept.

    ``allow(n)`` is asked before it holds ``n`` bytes; where it says no, the body is treated as larger than the limit.
    """

    def __init__(self, max_bytes: int, allow: Callable[[int], bool] = unlimited) -> None:
        self.size = 0
        self.overflowed = False
        """True if the body is larger than the limit, or than the memory there is."""
        self._max_bytes: Final = max_bytes
        self._allow: Final = allow
        # large pieces as they came, which whoever reads ahead holds too; small ones joined, as a list weighs more
        self._pieces: list[bytes | bytearray] = []
        self._held = 0
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Add the next piece."""
        self.size += len(data)
        if self.overflowed:
            self._tail = (self._tail + data[-HEAD_BYTES:])[-HEAD_BYTES:]
        elif self.size > self._max_bytes or not self._allow(self.size):
            self._overflow(data)
        else:
            self._keep(data)

    @property
    def kept(self) -> int:
        """Bytes in memory."""
        return self._held + len(self._tail)

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """The first and the last bytes of the body, as it came."""
        return self._first(HEAD_BYTES), self._tail if self.overflowed else self._last(HEAD_BYTES)

    def raw(self) -> bytes:
        """Return the bytes that are kept of the beginning, still encoded."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return bytes(self._pieces[0]) if self._pieces else b""

    def text(self, content_encoding: str | None = None) -> str:
        """Return the text to store: the body itself, or an envelope that says why it is not the body.

        ``{"rwriter": {"envelope": "truncated", "size", "head"}}`` for a body over the limit, before or after decoding,
        with the small members of a JSON object (``KEPT_MEMBERS``) beside ``rwriter``;
        ``{"rwriter": {"envelope": "base64", "size", "data"}}`` for bytes that are not UTF-8. ``size`` is the number of
        bytes received; ``content_encoding`` is added if there was one.
        """
        raw = self.raw()
        try:
            data, whole = self._decoded(raw, content_encoding)
        except UndecodableBody:
            if not self.overflowed:
                return self._base64(raw, content_encoding)
            data, whole = raw, False
        if not whole:
            # of a coded body the end cannot be read
            tail = b"" if content_encoding else self.ends[1]
            return _truncated(data, tail, self.size, content_encoding)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return self._base64(data, None)

    def _overflow(self, data: bytes) -> None:
        self.overflowed = True
        head = min(HEAD_BYTES, self._max_bytes)
        missing = max(0, HEAD_BYTES - len(data))
        self._tail = self._last(missing) + data[-HEAD_BYTES:]
        beginning = self._first(head) + data[: max(0, head - self._held)]
        self._pieces, self._held = [beginning], len(beginning)

    def _keep(self, data: bytes) -> None:
        self._held += len(data)
        last = self._pieces[-1] if self._pieces else None
        if last is None or len(data) >= _PIECE_BYTES:
            self._pieces.append(data)
        elif isinstance(last, bytearray) and len(last) < HEAD_BYTES:
            last += data
        else:
            self._pieces.append(bytearray(data))

    def _first(self, size: int) -> bytes:
        """Return the first ``size`` bytes that are kept, or all of them."""
        found = b""
        for piece in self._pieces:
            found += piece[: size - len(found)]
            if len(found) == size:
                break
        return found

    def _last(self, size: int) -> bytes:
        """Return the last ``size`` bytes that are kept, or all of them."""
        found = b""
        for piece in reversed(self._pieces):
            found = bytes(piece[max(0, len(piece) - size + len(found)) :]) + found
            if len(found) == size:
                break
        return found

    def _decoded(self, raw: bytes, content_encoding: str | None) -> tuple[bytes, bool]:
        """Undo the content codings. Return the bytes, and False if they are not the whole body."""
        chain = decoders(content_encoding)
        if not chain:
            return raw, not self.overflowed
        decoded = bytearray()
        for piece in decode(chain, raw):
            decoded += piece
            if len(decoded) > self._max_bytes:
                break
        if raw and not decoded:
            raise UndecodableBody(str(content_encoding))
        return bytes(decoded), len(decoded) <= self._max_bytes and not self.overflowed

    def _base64(self, data: bytes, content_encoding: str | None) -> str:
        return _envelope("base64", self.size, content_encoding, {}, data=base64.b64encode(data).decode())


def truncated(text: str, size: int) -> str:
    """Return the envelope of a text that is too large to be stored, made of ``size`` bytes."""
    # a character has at most four bytes, and the ends are cut to whole ones
    return _truncated(text[:HEAD_BYTES].encode(), text[-HEAD_BYTES:].encode(), size, None)


def _truncated(head: bytes, tail: bytes, size: int, content_encoding: str | None) -> str:
    head = head[:HEAD_BYTES]
    members = skim(head, tail[-HEAD_BYTES:], KEPT_MEMBERS)
    return _envelope("truncated", size, content_encoding, members, head=head.decode(errors="ignore"))


def _envelope(kind: str, size: int, content_encoding: str | None, members: dict[str, Any], **content: str) -> str:
    coding = {} if content_encoding is None else {"content_encoding": content_encoding[:_CODING_LENGTH]}
    return to_text({**members, "rwriter": {"envelope": kind, "size": size, **coding, **content}})

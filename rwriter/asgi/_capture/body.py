"""A body as it passes, copied up to a limit, and the text that is stored of it."""

from __future__ import annotations

import base64
from typing import Final

from rwriter.asgi._capture.codings import UndecodableBody, decode, decoders
from rwriter.asgi._json import to_text

HEAD_BYTES: Final = 64 * 1024
"""Bytes kept of a body that is larger than the limit."""


class Body:
    """Collects a body of any size in at most ``max_bytes``; of a larger one only the head is kept."""

    def __init__(self, max_bytes: int) -> None:
        self.size = 0
        self.kept = 0
        self._max_bytes: Final = max_bytes
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Add the next piece."""
        fitted = not self.overflowed
        self.size += len(data)
        if not fitted:
            return
        self._parts.append(data)
        if self.overflowed:
            self._parts = [b"".join(self._parts)[: min(HEAD_BYTES, self._max_bytes)]]
        self.kept = min(self.size, self._max_bytes) if not self.overflowed else len(self._parts[0])

    @property
    def overflowed(self) -> bool:
        """True if the body is larger than the limit."""
        return self.size > self._max_bytes

    def raw(self) -> bytes:
        """Return the bytes that are kept, still encoded."""
        return b"".join(self._parts)

    def text(self, content_encoding: str | None = None) -> str:
        """Return the text to store: the body itself, or an envelope that says why it is not the body.

        ``{"rwriter": {"envelope": "truncated", "size", "head"}}`` for a body over the limit, before or after decoding;
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
            head = data[:HEAD_BYTES].decode(errors="ignore")
            return _envelope("truncated", self.size, content_encoding, head=head)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return self._base64(data, None)

    def _decoded(self, raw: bytes, content_encoding: str | None) -> tuple[bytes, bool]:
        """Undo the content codings. Return the bytes, and False if they are not the whole body."""
        chain = decoders(content_encoding)
        if not chain:
            return raw, not self.overflowed
        parts: list[bytes] = []
        size = 0
        for piece in decode(chain, raw):
            parts.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                break
        if raw and not parts:
            raise UndecodableBody(str(content_encoding))
        return b"".join(parts), size <= self._max_bytes and not self.overflowed

    def _base64(self, data: bytes, content_encoding: str | None) -> str:
        return _envelope("base64", self.size, content_encoding, data=base64.b64encode(data).decode())


def truncated(text: str, size: int) -> str:
    """Return the envelope of a text that is too large to be stored, made of ``size`` bytes."""
    return _envelope("truncated", size, None, head=text[:HEAD_BYTES])


def _envelope(kind: str, size: int, content_encoding: str | None, **content: str) -> str:
    coding = {} if content_encoding is None else {"content_encoding": content_encoding}
    return to_text({"rwriter": {"envelope": kind, "size": size, **coding, **content}})

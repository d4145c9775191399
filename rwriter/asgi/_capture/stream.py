"""An answer of server-sent events, folded into the object it builds while it passes."""

from __future__ import annotations

from typing import Final

from rwriter.asgi._capture.body import Body, truncated
from rwriter.asgi._capture.codings import Decoder, UndecodableBody, decode, decoders
from rwriter.asgi._fold.stream import StreamError, StreamFold
from rwriter.asgi._json import to_text

FOLD_BYTES: Final = 16 * 1024
"""Bytes of a stream folded at a time: some sixty events, a third of a millisecond."""


class StreamedBody:
    """A body of server-sent events. Holds the folded object, and the raw stream only until its events are known."""

    def __init__(self, content_encoding: str | None, max_bytes: int) -> None:
        self._size = 0
        self._max_bytes: Final = max_bytes
        self._content_encoding: Final = content_encoding
        self._fold: Final = StreamFold(max_bytes=max_bytes)
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._raw = Body(max_bytes)
        self._chain: list[Decoder] | None
        try:
            self._chain = decoders(content_encoding)
        except UndecodableBody:
            self._chain = None

    @property
    def known(self) -> bool:
        """True if the events are of a known kind. Other streams are stored as they came."""
        self._catch_up()
        return self._understood

    @property
    def ended(self) -> bool:
        """True once the stream's own end marker or an error frame has come."""
        return self.known and self._fold.ended

    @property
    def held_bytes(self) -> int:
        """Bytes in memory, roughly."""
        return self._waiting_size + (min(self._size, self._max_bytes) if self._understood else self._raw.kept)

    def feed(self, data: bytes) -> None:
        """Add the next piece of the stream."""
        self._waiting.append(data)
        self._waiting_size += len(data)
        # folding each event by itself would delay the next one, which is already waiting
        if self._waiting_size >= FOLD_BYTES:
            self._catch_up()

    def text(self) -> tuple[str, StreamError | None]:
        """Return the folded object as JSON and its error frame; the raw text, if the events are of no known kind."""
        if not self.known:
            return self._raw.text(self._content_encoding), None
        folded = self._fold.result()
        text = "" if folded.body is None else to_text(folded.body)
        if folded.truncated or len(text) > self._max_bytes:
            text = truncated(text, self._size)
        return text, folded.error

    @property
    def _understood(self) -> bool:
        return self._chain is not None and self._fold.known

    def _catch_up(self) -> None:
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_size = 0
        self._size += len(data)
        if not self._understood:
            self._raw.feed(data)
        try:
            for piece in decode(self._chain, data) if self._chain is not None else ():
                self._fold.feed(piece)
        except UndecodableBody:
            self._chain = None
        if self._understood:
            self._raw = Body(self._max_bytes)

"""An answer of server-sent events, folded into the object it builds while it passes."""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from rwriter.asgi._capture.body import Body, truncated
from rwriter.asgi._capture.codings import Decoder, UndecodableBody, decode, decoders
from rwriter.asgi._fold.stream import StreamError, StreamFold
from rwriter.asgi._json import loads, to_text

LARGE_BYTES: Final = 96 * 1024
"""Bytes at once, or of one event, that are not folded on the event loop: two milliseconds."""
FOLD_BYTES: Final = 16 * 1024
"""Bytes of a stream folded at a time: some sixty events, a third of a millisecond."""


LINES_OF_JSON: Final = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/json-seq",
    }
)
"""Content types of a stream whose events are lines of JSON."""

_HEAD: Final = 64
"""Bytes that tell what a body is."""
_DECODER: Final = json.JSONDecoder(strict=False)
_NEXT: Final = re.compile(r"[\s,]*+\{")
_END: Final = re.compile(r"\s*+\]\s*+\Z")
_BEGINNINGS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def begins_as_events(head: bytes | bytearray) -> bool | None:
    """Return True if ``head`` begins a stream of server-sent events, ``None`` if more bytes must tell."""
    start = bytes(head[:_HEAD]).removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if any(start.startswith(beginning) for beginning in _BEGINNINGS):
        return True
    return None if len(head) < _HEAD and any(beginning.startswith(start) for beginning in _BEGINNINGS) else False


class Pieces(NamedTuple):
    """A body of pieces of an answer, as lines of JSON. ``closed`` if its own end shows that none is missing."""

    lines: str
    closed: bool


def pieces_in(text: str) -> Pieces | None:
    """Return the pieces of an answer that ``text`` holds on lines, or in one array; ``None`` for another body."""
    start = text.lstrip("\ufeff \t\r\n")
    if start[:1] == "[":
        return _pieces_of_array(start)
    first, newline, rest = start.partition("\n")
    is_lines = bool(newline) and rest.lstrip()[:1] == "{" and first[:1] == "{" and isinstance(loads(first), dict)
    return Pieces(text + "\n", closed=False) if is_lines else None


def _pieces_of_array(text: str) -> Pieces | None:
    lines, at = [], 1
    while (found := _NEXT.match(text, at)) is not None:
        try:
            value, at = _DECODER.raw_decode(text, found.end() - 1)
        except (ValueError, RecursionError):
            break
        lines.append(to_text(value))
    return Pieces("\n".join(lines) + "\n", closed=_END.match(text, at) is not None) if lines else None


class StreamedBody:
    """A body of server-sent events. Holds the folded object, and the raw stream only until its events are known."""

    def __init__(self, content_encoding: str | None, max_bytes: int) -> None:
        self._size = 0
        self._max_bytes: Final = max_bytes
        self._content_encoding: Final = content_encoding
        self._fold: Final = StreamFold(max_bytes=max_bytes)
        self._waiting = bytearray()  # a list of pieces of two bytes would weigh forty times as much
        self._raw = Body(max_bytes)
        # what came from a large event on, to be folded by whoever asks for the text
        self._late: bytearray | None = None
        self._lost = 0
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
    def is_undecided(self) -> bool:
        """True while a part of the stream is not folded: nobody knows whether its end has come."""
        return self._late is not None

    @property
    def is_silent(self) -> bool:
        """True if nothing has come that says anything: no event, and no JSON in place of events."""
        self._finish()
        return self._chain is not None and not self._fold.known and not self._fold.unknown and not self._is_json

    @property
    def ended(self) -> bool:
        """True if the stream's own end marker or an error frame has come. Asked when nothing more comes."""
        self._finish()
        return self.known and (self._fold.ended or self._lost > 0)

    @property
    def other_id(self) -> str | None:
        """An id of the answer that the client has seen beside the one in the text, if its id has changed."""
        return self._fold.other_id

    @property
    def held_bytes(self) -> int:
        """Bytes in memory, roughly."""
        return (
            len(self._waiting)
            + len(self._late or b"")
            + (min(self._size, self._max_bytes) if self._understood else self._raw.kept)
        )

    def feed(self, data: bytes) -> None:
        """Add the next piece of the stream."""
        if self._late is not None:
            self._keep_for_later(data)
            return
        self._waiting += data
        # folding each event by itself would delay the next one, which is already waiting
        if len(self._waiting) >= FOLD_BYTES:
            self._catch_up()

    def _keep_for_later(self, data: bytes) -> None:
        if self._late is None or len(self._late) + len(data) > self._max_bytes:
            self._lost += len(data)
        else:
            self._late += data

    def settle(self) -> None:
        """Fold what was kept for later. Takes a hundred milliseconds for 8 MiB: not on the event loop."""
        late, self._late = self._late, None
        if late:
            self._fold_now(bytes(late))

    def text(self) -> tuple[str, StreamError | None]:
        """Return the folded object as JSON and its error frame; the raw text, if the events are of no known kind."""
        self.settle()
        self._finish()
        if not self.known:
            return self._raw.text(self._content_encoding), None
        folded = self._fold.result()
        text = "" if folded.body is None else to_text(folded.body)
        if folded.truncated or self._lost or len(text) > self._max_bytes:
            text = truncated(text, self._size + self._lost)
        return text, folded.error

    @property
    def _understood(self) -> bool:
        return self._chain is not None and self._fold.known

    @property
    def _is_json(self) -> bool:
        # of a large one its beginning has to do: it is asked on the event loop
        text = self._raw.text(self._content_encoding)
        return isinstance(loads(text), dict | list) if len(text) <= LARGE_BYTES else text.lstrip()[:1] in {"{", "["}

    def _finish(self) -> None:
        self._catch_up()
        if self._late is None:
            self._fold.finish()

    def _catch_up(self) -> None:
        if not self._waiting:
            return
        data = bytes(self._waiting)
        self._waiting.clear()
        if len(data) + self._fold.pending_bytes > LARGE_BYTES:
            self._late = bytearray()
            self._keep_for_later(data)
        else:
            self._fold_now(data)

    def _fold_now(self, data: bytes) -> None:
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

"""Decodes content codings, for storage only: gzip, deflate, br and zstd, each fed piece by piece.

Bounded on every side: the number of codings, the bytes between two of them, the members that hold nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

PIECE: Final = 1024 * 1024
"""Most bytes decoded at a time, as a small body can grow to gigabytes."""
MOST_CODINGS: Final = 4
"""Codings of one body. No client that means well sends more than two."""
BETWEEN: Final = 64 * 1024 * 1024
"""Most bytes that may pass between two codings: the last coding's own output is bounded by who takes it."""
EMPTY_MEMBERS: Final = 64
"""Most members or frames of one body that may hold nothing."""
MOST_MEMBERS: Final = 16 * 1024
"""Most members or frames of one body: files of many members have one for each 64 kB or so."""

_INPUT: Final = 4 * 1024
"""Bytes fed at a time to a coding of several members: each member copies what is left of them."""
_WINDOW_LOG: Final = 23
"""Largest window of zstd, 8 MiB: a content coding may ask for no more (RFC 9659)."""
_ZLIB_HEADER: Final = 2


class UndecodableBody(Exception):
    """Raised if a body is not in its coding, or no decoder for the coding is installed."""


class Decoder(Protocol):
    """Decodes one content coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next piece. Raises ``UndecodableBody``."""


class _Members:
    """Counts the members of a body that held nothing."""

    def __init__(self, coding: str) -> None:
        self._coding: Final = coding
        self._number = 0
        self._empty = 0
        self._held = False

    def pieces(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._held = True
            yield piece

    def next(self) -> None:
        """Begin the next member. Raises ``UndecodableBody`` if there are too many, or too many that are empty."""
        self._number += 1
        self._empty += not self._held
        self._held = False
        if self._empty > EMPTY_MEMBERS or self._number > MOST_MEMBERS:
            raise UndecodableBody(self._coding)


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._members: Final = _Members("gzip")

    def feed(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _INPUT):
            yield from self._feed(data[at : at + _INPUT])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield from self._members.pieces(_inflate(self._stream, data))
            data = self._stream.unused_data
            if self._stream.eof:
                # a gzip file may have several members
                self._members.next()
                self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)


class _Deflate:
    def __init__(self) -> None:
        self._head = b""
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            data = self._head + data
            if len(data) < _ZLIB_HEADER:
                self._head = data
                return
            # the standard asks for zlib's format, but many servers send bare deflate
            has_zlib_header = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:_ZLIB_HEADER], "big") % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if has_zlib_header else -zlib.MAX_WBITS)
        if not self._stream.eof:  # zlib would keep all that comes behind the end
            yield from _inflate(self._stream, data)


def _inflate(stream: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    try:
        piece = stream.decompress(data, PIECE)
        while piece:
            yield piece
            piece = stream.decompress(stream.unconsumed_tail, PIECE)
    except zlib.error as exc:
        raise UndecodableBody("zlib") from exc


class _Brotli:
    def __init__(self) -> None:
        import brotli  # noqa: PLC0415 -- in the extra

        self._error: Final[type[Exception]] = brotli.error
        self._stream: Final[Any] = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = self._stream.process(data, output_buffer_limit=PIECE)
            while piece:
                yield piece
                if self._stream.is_finished():
                    return
                piece = self._stream.process(b"", output_buffer_limit=PIECE)
        except self._error as exc:
            raise UndecodableBody("br") from exc


class _Zstd:
    def __init__(self) -> None:
        try:
            from compression import zstd  # type: ignore[import-not-found]  # noqa: PLC0415 -- Python 3.14
        except ModuleNotFoundError:
            from backports import zstd  # noqa: PLC0415 -- in the extra
        self._module: Final[Any] = zstd
        self._members: Final = _Members("zstd")
        self._stream = self._new()

    def feed(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _INPUT):
            yield from self._feed(data[at : at + _INPUT])

    def _new(self) -> Any:
        return self._module.ZstdDecompressor(options={self._module.DecompressionParameter.window_log_max: _WINDOW_LOG})

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._stream.eof:
                self._members.next()
                self._stream = self._new()
            try:
                yield from self._members.pieces(self._pieces(data))
            except self._module.ZstdError as exc:
                raise UndecodableBody("zstd") from exc
            # a zstd file may have several frames
            data = self._stream.unused_data if self._stream.eof else b""

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        piece = self._stream.decompress(data, PIECE)
        while piece:
            yield piece
            if self._stream.eof or self._stream.needs_input:
                return
            piece = self._stream.decompress(b"", PIECE)


_DECODERS: Final[dict[str, Callable[[], Decoder]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


class _Bounded:
    """A coding whose output is the input of the next one."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder: Final = decoder
        self._passed = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        for piece in self._decoder.feed(data):
            self._passed += len(piece)
            if self._passed > BETWEEN:
                raise UndecodableBody("too much between two codings")
            yield piece


def decoders(content_encoding: str | None) -> list[Decoder]:
    """Return the decoders for a ``Content-Encoding``, the last coding first. Raises ``UndecodableBody``."""
    if not content_encoding:
        return []
    every = (name.strip().lower() for name in content_encoding.split(","))
    names = [name for name in every if name not in {"", "identity"}]
    if len(names) > MOST_CODINGS:
        raise UndecodableBody(f"{len(names)} codings")
    try:
        chain = [_DECODERS[name]() for name in reversed(names)]
    except (KeyError, ModuleNotFoundError) as exc:
        raise UndecodableBody(content_encoding) from exc
    return [*map(_Bounded, chain[:-1]), *chain[-1:]]


def decode(chain: Iterable[Decoder], data: bytes) -> Iterator[bytes]:
    """Pass ``data`` through all decoders of ``chain``."""
    pieces: Iterator[bytes] = iter((data,))
    for decoder in chain:
        pieces = _through(decoder, pieces)
    return pieces


def _through(decoder: Decoder, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield from decoder.feed(piece)

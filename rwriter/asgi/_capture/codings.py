"""Decodes content codings, for storage only: gzip, deflate, br and zstd, each fed piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

PIECE: Final = 1024 * 1024
"""Most bytes decoded at a time, as a small body can grow to gigabytes."""


_ZLIB_HEADER: Final = 2


class UndecodableBody(Exception):
    """Raised if a body is not in its coding, or no decoder for the coding is installed."""


class Decoder(Protocol):
    """Decodes one content coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next piece. Raises ``UndecodableBody``."""


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield from _inflate(self._stream, data)
            data = self._stream.unused_data
            if self._stream.eof:
                # a gzip file may have several members
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
        self._stream = self._module.ZstdDecompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._stream.eof:
                self._stream = self._module.ZstdDecompressor()
            try:
                yield from self._pieces(data)
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


def decoders(content_encoding: str | None) -> list[Decoder]:
    """Return the decoders for a ``Content-Encoding``, the last coding first. Raises ``UndecodableBody``."""
    names = [name.strip().lower() for name in (content_encoding or "").split(",")]
    try:
        return [_DECODERS[name]() for name in reversed(names) if name not in {"", "identity"}]
    except (KeyError, ModuleNotFoundError) as exc:
        raise UndecodableBody(str(content_encoding)) from exc


def decode(chain: Iterable[Decoder], data: bytes) -> Iterator[bytes]:
    """Pass ``data`` through all decoders of ``chain``."""
    pieces: Iterator[bytes] = iter((data,))
    for decoder in chain:
        pieces = _through(decoder, pieces)
    return pieces


def _through(decoder: Decoder, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield from decoder.feed(piece)

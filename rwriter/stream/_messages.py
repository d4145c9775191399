"""The bytes of a message: records as a spool has them, compressed together with a checksum.

Keys travel as the digests that they are in a record: decoding takes them for nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from rwriter._chain.entries import Entry, decode_entry, encode_entry
from rwriter._values.guarded import Guarded
from rwriter.records import CompletedRequest, decode_record, encode_record

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")

CONTENT: Final = "Rwriter-Content"
"""Header that says what a message holds. A consumer leaves what it does not know in the stream."""

RECORDS: Final = "records-1"
LETTER: Final = "letter-1"
ENTRIES: Final = "ledger-1"

PARTS: Final = "Rwriter-Parts"
"""Header of a message whose payload lies in as many messages of its own; ``DIGEST`` names them."""

DIGEST: Final = "Rwriter-Digest"
REQUEST_ID: Final = "Rwriter-Request-Id"

INLINE_BYTES: Final = 64 * 1024
"""Most bytes that are packed or unpacked on the event loop: about half a millisecond. More goes to a thread."""

_LEVEL: Final = zstd.CompressionParameter.compression_level
_CHECKSUM: Final = zstd.CompressionParameter.checksum_flag
_OPTIONS: Final[dict[int, int]] = {_LEVEL: 3, _CHECKSUM: 1}


class Unreadable(Exception):
    """A message that this release cannot read: damaged, foreign or of a later one. The text says why."""


class Letter(Guarded, frozen=True):
    """A record that was refused before it reached the stream, for ``dead_letters``."""

    record: bytes
    sqlstate: str | None
    error: str

    __shown__ = ("sqlstate",)


def pack_records(records: Iterable[CompletedRequest]) -> bytes:
    """Return ``records`` as the payload of one message."""
    return zstd.compress(msgspec.msgpack.encode([encode_record(record) for record in records]), options=_OPTIONS)


def unpack_records(payload: bytes) -> list[CompletedRequest]:
    """Return the records of a payload. Raises ``Unreadable``, whatever is wrong with it."""
    return _reading(lambda: [decode_record(each) for each in _records.decode(zstd.decompress(payload))])


def pack_letter(record: CompletedRequest, *, sqlstate: str | None, error: str) -> bytes:
    """Return a refused record with the reason as the payload of one message."""
    # a server's words may hold what UTF-8 does not
    words = error.encode("utf-8", "replace").decode()
    return zstd.compress(msgspec.msgpack.encode(Letter(encode_record(record), sqlstate, words)), options=_OPTIONS)


def unpack_letter(payload: bytes) -> tuple[CompletedRequest, Letter]:
    """Return the refused record of a payload, and the reason. Raises ``Unreadable``."""

    def read() -> tuple[CompletedRequest, Letter]:
        letter = _letters.decode(zstd.decompress(payload))
        return decode_record(letter.record), letter

    return _reading(read)


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """Return entries of a ledger as the payload of one message."""
    return zstd.compress(msgspec.msgpack.encode([encode_entry(entry) for entry in entries]), options=_OPTIONS)


def unpack_entries(payload: bytes) -> list[Entry]:
    """Return the entries of a payload. Raises ``Unreadable``."""
    return _reading(lambda: [decode_entry(each) for each in _records.decode(zstd.decompress(payload))])


def digest_of(payload: bytes) -> str:
    """Return a name for a payload: the same for the same records, packed again for another attempt."""
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


async def aside(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Return ``work(*arguments)``, done on a thread where ``size`` bytes would hold up the event loop."""
    return work(*arguments) if size <= INLINE_BYTES else await asyncio.to_thread(work, *arguments)


def text_bytes(records: Sequence[CompletedRequest]) -> int:
    """Return the bytes of text in ``records``."""
    return sum(record.text_bytes for record in records)


def _reading(read: Callable[[], T]) -> T:
    try:
        return read()
    except (zstd.ZstdError, msgspec.MsgspecError, ValueError, TypeError) as exc:
        # not its words: they can quote the payload
        raise Unreadable(type(exc).__name__) from None


_records: Final = msgspec.msgpack.Decoder(list[bytes])
_letters: Final = msgspec.msgpack.Decoder(Letter)

"""The rows of a spool's file, and the checksum that tells whether one is what was put."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id BLOB NOT NULL,
    custom_id TEXT,
    payload BLOB NOT NULL,
    spooled_at REAL NOT NULL,
    checksum BLOB NOT NULL,
    claimant TEXT
);
CREATE INDEX IF NOT EXISTS records_request_id ON records (request_id);
CREATE INDEX IF NOT EXISTS records_custom_id ON records (custom_id) WHERE custom_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_latter_id ON records (substr(custom_id, 1, instr(custom_id, char(31)) - 1))
    WHERE instr(custom_id, char(31)) > 0;
CREATE INDEX IF NOT EXISTS records_first_id ON records (substr(custom_id, instr(custom_id, char(31)) + 1))
    WHERE instr(custom_id, char(31)) > 0;
CREATE TABLE IF NOT EXISTS set_aside (
    seq INTEGER PRIMARY KEY,
    request_id BLOB,
    custom_id TEXT,
    payload BLOB,
    spooled_at REAL,
    checksum BLOB,
    reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

SELECT: Final = "SELECT seq, request_id, custom_id, payload, spooled_at, checksum"
FREE: Final = f"{SELECT} FROM records WHERE claimant IS NULL AND seq > ? ORDER BY seq LIMIT ?"


BETWEEN_IDS: Final = chr(31)
"""Stands in ``custom_id`` between the two ids of an answer that changed its own, the latter before the first."""

KNOWN_AS: Final = (
    "custom_id = ?1 "
    "OR (instr(custom_id, char(31)) > 0 AND substr(custom_id, 1, instr(custom_id, char(31)) - 1) = ?1) "
    "OR (instr(custom_id, char(31)) > 0 AND substr(custom_id, instr(custom_id, char(31)) + 1) = ?1)"
)
"""Condition of the rows that a client knows by an id. Each of its terms has an index."""


class Row(NamedTuple):
    """One spooled record: ``request_id`` is 16 bytes, ``payload`` MessagePack, ``spooled_at`` Unix seconds."""

    request_id: bytes
    custom_id: str | None
    payload: bytes
    spooled_at: float


class Stored(NamedTuple):
    """A row with its number in the file."""

    seq: int
    row: Row


class Listed(NamedTuple):
    """A row in a listing. ``size`` is bytes, ``reason`` why it was set aside, ``None`` if it was not."""

    seq: int
    request_id: bytes
    size: int
    spooled_at: float
    claimed: bool
    reason: str | None


def checksum_of(row: Row) -> bytes:
    """Return a checksum of 16 bytes over all that is replayed of a row."""
    digest = hashlib.blake2b(digest_size=16)
    custom_id = b"" if row.custom_id is None else b"\x01" + row.custom_id.encode("utf-8", "surrogatepass")
    for part in (row.request_id, custom_id, repr(row.spooled_at).encode(), row.payload):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def read_row(found: Sequence[object]) -> tuple[int, Row | None]:
    """Return the number and the row in an answer to ``SELECT``, or ``None`` for one that is not what was put."""
    seq, request_id, custom_id, payload, spooled_at, checksum = found
    if (
        isinstance(request_id, bytes)
        and (custom_id is None or isinstance(custom_id, str))
        and isinstance(payload, bytes)
        and isinstance(spooled_at, float)
    ):
        row = Row(request_id, custom_id, payload, spooled_at)
        if checksum_of(row) == checksum:
            return int(str(seq)), row
    return int(str(seq)), None

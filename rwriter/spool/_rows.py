"""The rows of a spool's file, and the checksum that tells whether one is what was put."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
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
    claimant TEXT,
    database TEXT,
    origin TEXT
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
    reason TEXT NOT NULL,
    database TEXT,
    origin TEXT
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS databases (identity TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# after the columns: a file of an earlier release gets them first
_INDEX: Final = "CREATE INDEX IF NOT EXISTS records_origin ON records (origin) WHERE origin IS NOT NULL"
_OWNER: Final = ("database", "origin")

FIELDS: Final = "seq, request_id, custom_id, payload, spooled_at, checksum, database, origin"
SELECT: Final = f"SELECT {FIELDS}"


BETWEEN_IDS: Final = chr(31)
"""Stands in ``custom_id`` between the two ids of an answer that changed its own, the latter before the first."""

KNOWN_AS: Final = (
    "custom_id = ?1 "
    "OR (instr(custom_id, char(31)) > 0 AND substr(custom_id, 1, instr(custom_id, char(31)) - 1) = ?1) "
    "OR (instr(custom_id, char(31)) > 0 AND substr(custom_id, instr(custom_id, char(31)) + 1) = ?1)"
)
"""Condition of the rows that a client knows by an id. Each of its terms has an index."""


class Row(NamedTuple):
    """One spooled record: ``request_id`` is 16 bytes, ``payload`` MessagePack, ``spooled_at`` Unix seconds.

    ``database`` is the identity of the one it is for; while that is not known, ``origin`` names the process that does.
    """

    request_id: bytes
    custom_id: str | None
    payload: bytes
    spooled_at: float
    database: str | None = None
    origin: str | None = None


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


def check(db: sqlite3.Connection) -> None:
    """Raise ``sqlite3.DatabaseError`` for a file that is damaged."""
    (health,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if health != "ok":
        raise sqlite3.DatabaseError(health)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables that are not there, and the columns that a file of an earlier release has not."""
    db.executescript(SCHEMA)
    for table in ("records", "set_aside"):
        for column in set(_OWNER) - _columns_of(db, table):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT")
    db.execute(_INDEX)


def standing_of(db: sqlite3.Connection) -> tuple[int, int, float | None]:
    """Return the number of rows waiting, the number set aside, and when the oldest of the former was put there."""
    number, aside, oldest = db.execute(
        "SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM set_aside),"
        " (SELECT spooled_at FROM records ORDER BY seq LIMIT 1)"
    ).fetchone()
    return number, aside, oldest


def fields_of(db: sqlite3.Connection, table: str) -> str:
    """Return what to select of ``table`` for ``FIELDS``, in a file of whatever release and state."""
    missing: set[str] = set()
    with contextlib.suppress(sqlite3.DatabaseError):
        missing |= set(_OWNER) - _columns_of(db, table)
    return ", ".join("NULL" if name in missing else name for name in FIELDS.split(", "))


def _columns_of(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def checksum_of(row: Row) -> bytes:
    """Return a checksum of 16 bytes over all that is replayed of a row, and over where to."""
    digest = hashlib.blake2b(digest_size=16)
    # rows of earlier releases have no owner, and keep their checksums
    owner = [_given(part) for part in (row.database, row.origin)] if row.database or row.origin else []
    for part in (row.request_id, _given(row.custom_id), repr(row.spooled_at).encode(), row.payload, *owner):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _given(text: str | None) -> bytes:
    return b"" if text is None else b"\x01" + text.encode("utf-8", "surrogatepass")


def read_row(found: Sequence[object]) -> tuple[int, Row | None]:
    """Return the number and the row in an answer to ``SELECT``, or ``None`` for one that is not what was put."""
    seq, request_id, custom_id, payload, spooled_at, checksum, database, origin = found
    if (
        isinstance(request_id, bytes)
        and isinstance(custom_id, str | None)
        and isinstance(payload, bytes)
        and isinstance(spooled_at, float)
        and isinstance(database, str | None)
        and isinstance(origin, str | None)
    ):
        row = Row(request_id, custom_id, payload, spooled_at, database, origin)
        if checksum_of(row) == checksum:
            return int(str(seq)), row
    return int(str(seq)), None

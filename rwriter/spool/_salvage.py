"""Moves what can be read of a damaged spool, or of one whose file was removed while it was open, into a new file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from rwriter.spool._rows import FIELDS, fields_of, read_row

_GAP: Final = 1_000_000
"""Numbers left between the last row of the old file and the first of the new: others may write to the old one still."""
_PATIENCE: Final = 10_000
"""Numbers without a row that are looked up one after another before the search ends."""


class Kept(NamedTuple):
    """The new file, and how many rows of the old one are in it."""

    db: sqlite3.Connection
    rows: int


def salvage(old: sqlite3.Connection, make: Callable[[], sqlite3.Connection]) -> tuple[Kept, int]:
    """Close ``old`` and return the file that ``make`` makes, with the old one's sound rows, and how many were not.

    Rows keep their numbers and their claimants: a living process goes on removing those it has claimed.
    """
    rows: list[Sequence[object]] = []
    lost = 0
    for found in _rows_of(old):
        if found is None or read_row(found[:-1])[1] is None:
            lost += 1
        else:
            rows.append(found)
    aside = _all_of(old, f"SELECT {fields_of(old, 'set_aside')}, reason FROM set_aside")
    owners = {table: _all_of(old, f"SELECT * FROM {table}") for table in ("facts", "databases")}
    with contextlib.suppress(sqlite3.Error):
        old.close()
    new = make()
    last = max((int(str(row[0])) for row in rows), default=0)
    with new:
        new.execute("BEGIN IMMEDIATE")
        marks = ", ".join("?" * (FIELDS.count(",") + 2))
        new.executemany(f"INSERT OR IGNORE INTO records ({FIELDS}, claimant) VALUES ({marks})", rows)
        new.executemany(f"INSERT OR IGNORE INTO set_aside ({FIELDS}, reason) VALUES ({marks})", aside)
        new.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", owners["facts"])
        new.executemany("INSERT OR IGNORE INTO databases VALUES (?)", owners["databases"])
        new.execute(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'records', ? "
            "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'records')",
            (last,),
        )
        new.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'records'", (last + _GAP,))
    return Kept(new, len(rows)), lost


def _rows_of(db: sqlite3.Connection) -> Iterator[Sequence[object] | None]:
    """Yield the rows that can be read, and ``None`` for each that was met and cannot be."""
    seen: set[int] = set()
    select = f"SELECT {fields_of(db, 'records')}, claimant FROM records NOT INDEXED"
    # from both ends, as far as it goes: a page that cannot be read ends a scan, and says nothing about those behind it
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.DatabaseError):
            for row in db.execute(f"{select} ORDER BY seq {order}"):
                if row[0] in seen:
                    break
                seen.add(row[0])
                yield row
    yield from _rows_between(db, select, seen)


def _rows_between(db: sqlite3.Connection, select: str, seen: set[int]) -> Iterator[Sequence[object] | None]:
    """Look up each number that no scan came to."""
    last = max(seen, default=0)
    with contextlib.suppress(sqlite3.DatabaseError):
        for (number,) in db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'"):
            last = max(last, int(number))
    missing = 0
    for seq in range(1, last + 1):
        if seq in seen:
            missing = 0
            continue
        try:
            row = db.execute(f"{select} WHERE seq = ?", (seq,)).fetchone()
        except sqlite3.DatabaseError:
            yield None
            continue
        missing = missing + 1 if row is None else 0
        if row is not None:
            yield row
        elif missing > _PATIENCE:
            return


def _all_of(db: sqlite3.Connection, select: str) -> list[Sequence[object]]:
    found: list[Sequence[object]] = []
    with contextlib.suppress(sqlite3.DatabaseError):
        found.extend(db.execute(select))
    return found

"""Moves what can be read of a damaged spool, or of one whose file was removed while it was open, into a new file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from rwriter.spool._rows import SELECT, read_row

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
    aside = _set_aside_of(old)
    with contextlib.suppress(sqlite3.Error):
        old.close()
    new = make()
    last = max((int(str(row[0])) for row in rows), default=0)
    with new:
        new.execute("BEGIN IMMEDIATE")
        new.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        new.executemany("INSERT OR IGNORE INTO set_aside VALUES (?, ?, ?, ?, ?, ?, ?)", aside)
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
    # from both ends, as far as it goes: a page that cannot be read ends a scan, and says nothing about those behind it
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.DatabaseError):
            for row in db.execute(f"{SELECT}, claimant FROM records NOT INDEXED ORDER BY seq {order}"):
                if row[0] in seen:
                    break
                seen.add(row[0])
                yield row
    yield from _rows_between(db, seen)


def _rows_between(db: sqlite3.Connection, seen: set[int]) -> Iterator[Sequence[object] | None]:
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
            row = db.execute(f"{SELECT}, claimant FROM records NOT INDEXED WHERE seq = ?", (seq,)).fetchone()
        except sqlite3.DatabaseError:
            yield None
            continue
        missing = missing + 1 if row is None else 0
        if row is not None:
            yield row
        elif missing > _PATIENCE:
            return


def _set_aside_of(db: sqlite3.Connection) -> list[Sequence[object]]:
    found: list[Sequence[object]] = []
    with contextlib.suppress(sqlite3.DatabaseError):
        found.extend(db.execute("SELECT * FROM set_aside"))
    return found

"""The databases that the rows of a spool's file are for. The file bears one database's stamp, and each row its own.

A writer that starts while its database is away does not know which one it is: until then its rows bear its own name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from rwriter.errors import SpoolUnusable
from rwriter.spool._liveness import is_alive
from rwriter.spool._rows import SELECT, Row, checksum_of, read_row

_STAMP: Final = "SELECT value FROM facts WHERE name = 'database'"

# A database that no writer has named is one that damage has made up: such rows are read, and set aside.
_FREE: Final = f"""
{SELECT} FROM records WHERE claimant IS NULL AND seq > :after AND (
    :own IS NULL OR database = :own OR database NOT IN (SELECT identity FROM databases)
    OR (database IS NULL AND :stamped)
) ORDER BY seq
"""


class ForeignSpool(SpoolUnusable):
    """The spool bears another database's stamp."""


class Owner:
    """The database that this process writes to, once it is known."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory: Final = directory
        self._name: Final = name
        self.identity: str | None = None
        self._is_stamped = True

    def sign(self, row: Row) -> Row:
        """Return ``row`` with its database, or with this process's name while that is not known."""
        if self.identity is None:
            return row._replace(origin=self._name)
        return row._replace(database=self.identity)

    def learn(self, db: sqlite3.Connection, identity: str) -> str:
        """Take ``identity`` for this process's rows, those that are there too. Returns the stamp of the file."""
        db.execute("INSERT OR IGNORE INTO facts (name, value) VALUES ('database', ?)", (identity,))
        db.execute("INSERT OR IGNORE INTO databases (identity) VALUES (?)", (identity,))
        self.identity = identity
        # signed before the others are read: they may be this process's own
        _rewrite(db, "origin = ?", self._name, lambda row: row._replace(database=identity, origin=None))
        stamp = _stamp_of(db)
        self._is_stamped = stamp == identity
        return stamp or identity

    def check(self, stamp: str) -> None:
        """Raise ``ForeignSpool`` unless ``stamp`` is this process's database."""
        if stamp != self.identity:
            msg = (
                f"the spool in {self._directory} belongs to another database ({stamp}, not {self.identity}): give each "
                "database a folder of its own. If it is the same database, moved or restored: Spool(..., adopt=True)"
            )
            raise ForeignSpool(msg)

    def free_rows(self, db: sqlite3.Connection, after: int) -> Generator[tuple[int, Row | None]]:
        """Yield unclaimed rows above ``after`` that are for this process's database, and damaged ones as ``None``."""
        asked = {"after": after, "own": self.identity, "stamped": self._is_stamped}
        living = self._living_origins(db)
        for seq, row in map(read_row, db.execute(_FREE, asked)):
            if row is None or (row.origin not in living and row.database in {None, self.identity or row.database}):
                yield seq, row

    def _living_origins(self, db: sqlite3.Connection) -> set[object]:
        """Return the processes, other than this one, that will yet learn which database their rows are for."""
        if self.identity is None:
            return set()
        origins = db.execute("SELECT DISTINCT origin FROM records WHERE origin IS NOT NULL")
        return {name for (name,) in origins if is_alive(self._directory, name)}


def forget_stamp(db: sqlite3.Connection) -> None:
    """Take the stamp from the file and from the rows that bear the same: they are the next database's."""
    stamp = _stamp_of(db)
    db.execute("DELETE FROM facts WHERE name = 'database'")
    if stamp is not None:
        db.execute("DELETE FROM databases WHERE identity = ?", (stamp,))
        _rewrite(db, "database = ?", stamp, lambda row: row._replace(database=None))


def _stamp_of(db: sqlite3.Connection) -> str | None:
    found: tuple[str] | None = db.execute(_STAMP).fetchone()
    return None if found is None else found[0]


def _rewrite(db: sqlite3.Connection, condition: str, value: str, change: Callable[[Row], Row]) -> None:
    """Change the owner of the sound rows of both tables that meet ``condition``."""
    for table in ("records", "set_aside"):
        numbers = db.execute(f"SELECT seq FROM {table} WHERE {condition}", (value,)).fetchall()
        for (seq,) in numbers:
            _, row = read_row(db.execute(f"{SELECT} FROM {table} WHERE seq = ?", (seq,)).fetchone())
            if row is not None:
                changed = change(row)
                owner = (changed.database, changed.origin, checksum_of(changed), seq)
                db.execute(f"UPDATE {table} SET database = ?, origin = ?, checksum = ? WHERE seq = ?", owner)

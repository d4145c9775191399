"""Removes an owner's rows from a spool's file, and the bytes that SQLite leaves behind of rows deleted before."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("rwriter")


def forget(db: sqlite3.Connection, directory: Path, is_theirs: Callable[[bytes], bool]) -> int:
    """Delete rows whose payload ``is_theirs`` and return how many. Rewrites the file, for what was deleted before."""
    db.execute("BEGIN IMMEDIATE")
    try:
        number = sum(_delete(db, table, is_theirs) for table in ("records", "set_aside"))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    _overwrite(db, directory)
    for aside in directory.glob("*.corrupt-*"):
        log.warning("the damaged file %s may hold records of an erased owner: delete it", aside)
    return number


def _delete(db: sqlite3.Connection, table: str, is_theirs: Callable[[bytes], bool]) -> int:
    found = db.execute(f"SELECT seq, payload FROM {table}")
    theirs = [(seq,) for seq, payload in found if isinstance(payload, bytes) and is_theirs(payload)]
    db.executemany(f"DELETE FROM {table} WHERE seq = ?", theirs)
    return len(theirs)


def _overwrite(db: sqlite3.Connection, directory: Path) -> None:
    # deleted rows stay in free pages, and in the log, until something is written over them
    try:
        db.execute("VACUUM")
        (busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as exc:
        busy, reason = True, str(exc)
    else:
        reason = "another process reads it"
    if busy:
        log.warning(
            "deleted rows of the spool in %s can still be read from its file (%s): erase again", directory, reason
        )

"""The spool's file: SQLite in WAL mode, shared by the processes of one host. Synchronous: ``spool.py`` has a thread.

A row is unclaimed, and any process may replay it, or claimed by a living process. A claimant is known to live by a lock
that the kernel releases when its holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rwriter.errors import RwriterError, SpoolFull
from rwriter.spool._liveness import Claimant, bury, is_alive

log = logging.getLogger("rwriter")

FILE_NAME: Final = "spool.sqlite3"
BUSY_TIMEOUT: Final = 10.0
"""Seconds to wait for another process's transaction on the file."""
HEADROOM: Final = 16 * 1024 * 1024
"""Bytes of disk left free on top of the log: taking rows out of a spool needs room, too."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id BLOB NOT NULL,
    custom_id TEXT,
    payload BLOB NOT NULL,
    spooled_at REAL NOT NULL,
    claimant TEXT
);
CREATE INDEX IF NOT EXISTS records_request_id ON records (request_id);
CREATE INDEX IF NOT EXISTS records_custom_id ON records (custom_id) WHERE custom_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS set_aside (
    seq INTEGER PRIMARY KEY,
    request_id BLOB NOT NULL,
    custom_id TEXT,
    payload BLOB NOT NULL,
    spooled_at REAL NOT NULL,
    reason TEXT NOT NULL
);
"""


class Row(NamedTuple):
    """One spooled record. ``request_id`` is 16 bytes, ``payload`` MessagePack, ``spooled_at`` Unix seconds."""

    seq: int
    request_id: bytes
    payload: bytes
    spooled_at: float


class Listed(NamedTuple):
    """A row in a listing. ``size`` is bytes, ``reason`` why it was set aside, ``None`` if it was not."""

    seq: int
    request_id: bytes
    size: int
    spooled_at: float
    claimed: bool
    reason: str | None


class SpoolFile:
    """The open file. Not thread-safe: every call must come from the thread that made it."""

    def __init__(self, directory: Path, *, max_bytes: int, synchronous: str) -> None:
        self.directory: Final = directory
        self._max_bytes = max_bytes
        self._synchronous = synchronous
        # Updates that failed on a full disk. Applied before the next claim: until then those rows look claimed.
        self._deferred: list[tuple[str, list[tuple[int]]]] = []
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._claimant = Claimant(directory)
        self._db = self._open()

    # -- rows in

    def put(self, rows: Sequence[tuple[bytes, str | None, bytes]], *, keep: bool) -> list[int]:
        """Store ``(request_id, custom_id, payload)`` rows, with ``keep`` claimed by this process. Return their numbers.

        Raises ``SpoolFull``; ``sqlite3.Error`` where the disk does.
        """
        claimant = self._claimant.name if keep else None
        now = time.time()
        with self._transaction():
            self._check_room(sum(len(payload) for *_, payload in rows))
            insert = (
                "INSERT INTO records (request_id, custom_id, payload, spooled_at, claimant) VALUES (?, ?, ?, ?, ?) "
                "RETURNING seq"
            )
            return [self._db.execute(insert, (*row, now, claimant)).fetchone()[0] for row in rows]

    # -- rows out

    def claim(self, limit: int, max_bytes: int, after: int = 0) -> list[Row]:
        """Claim and return the oldest unclaimed rows with a number above ``after``, at least one if there is any."""
        with self._transaction():
            self._apply_deferred()
            self._release_rows_of_dead_processes()
            claimed: list[Row] = []
            size = 0
            free = (
                "SELECT seq, request_id, payload, spooled_at FROM records WHERE claimant IS NULL AND seq > ? "
                "ORDER BY seq LIMIT ?"
            )
            for row in map(Row._make, self._db.execute(free, (after, limit))):
                size += len(row.payload)
                if claimed and size > max_bytes:
                    break
                claimed.append(row)
            self._each(
                "UPDATE records SET claimant = ? WHERE seq = ?", [(self._claimant.name, row.seq) for row in claimed]
            )
        self._deferred.clear()
        return claimed

    def release(self, seqs: Iterable[int]) -> None:
        """Give rows back for anyone to replay."""
        self._defer("UPDATE records SET claimant = NULL WHERE seq = ?", seqs)

    def remove(self, seqs: Iterable[int]) -> None:
        """Delete rows that are in the database."""
        self._defer("DELETE FROM records WHERE seq = ?", seqs)

    def set_aside(self, seqs: Iterable[int], reason: str) -> None:
        """Move rows that cannot be replayed out of the replay, with the reason."""
        copy = (
            "INSERT OR REPLACE INTO set_aside (seq, request_id, custom_id, payload, spooled_at, reason) "
            "SELECT seq, request_id, custom_id, payload, spooled_at, ? FROM records WHERE seq = ?"
        )
        seqs = list(seqs)
        with self._transaction():
            self._each(copy, [(reason, seq) for seq in seqs])
            self._each("DELETE FROM records WHERE seq = ?", [(seq,) for seq in seqs])

    def find(self, request_id: bytes) -> bytes | None:
        """Return the payload of the first row with this id."""
        query = "SELECT payload FROM records WHERE request_id = ? ORDER BY seq LIMIT 1"
        row: tuple[bytes] | None = self._db.execute(query, (request_id,)).fetchone()
        return None if row is None else row[0]

    def find_custom(self, custom_id: str) -> list[bytes]:
        """Return the payloads of rows whose client knows them as ``custom_id``, whoever that is, the latest first."""
        query = "SELECT payload FROM records WHERE custom_id = ? ORDER BY seq DESC"
        return [payload for (payload,) in self._db.execute(query, (custom_id,))]

    def listing(self, limit: int) -> list[Listed]:
        """Return the oldest rows, those set aside among them."""
        query = (
            "SELECT seq, request_id, length(payload), spooled_at, claimant, NULL FROM records "
            "UNION ALL SELECT seq, request_id, length(payload), spooled_at, NULL, reason FROM set_aside "
            "ORDER BY seq LIMIT ?"
        )
        return [
            Listed(
                seq, request_id, size, spooled_at, claimant is not None and is_alive(self.directory, claimant), reason
            )
            for seq, request_id, size, spooled_at, claimant, reason in self._db.execute(query, (limit,))
        ]

    def payload(self, seq: int) -> bytes | None:
        """Return the payload of one row, set aside or not."""
        query = "SELECT payload FROM records WHERE seq = ?1 UNION ALL SELECT payload FROM set_aside WHERE seq = ?1"
        row: tuple[bytes] | None = self._db.execute(query, (seq,)).fetchone()
        return None if row is None else row[0]

    def purge(self, before: float, *, set_aside_only: bool) -> int:
        """Delete rows spooled before ``before`` (Unix seconds) that no process has claimed. Returns how many."""
        with self._transaction():
            number = self._db.execute("DELETE FROM set_aside WHERE spooled_at < ?", (before,)).rowcount
            if not set_aside_only:
                self._release_rows_of_dead_processes()
                free = "DELETE FROM records WHERE spooled_at < ? AND claimant IS NULL"
                number += self._db.execute(free, (before,)).rowcount
            return number

    def restore(self) -> int:
        """Put rows that were set aside back among those to be replayed. Returns how many."""
        with self._transaction():
            moved = self._db.execute(
                "INSERT INTO records (seq, request_id, custom_id, payload, spooled_at) "
                "SELECT seq, request_id, custom_id, payload, spooled_at FROM set_aside"
            ).rowcount
            self._db.execute("DELETE FROM set_aside")
            return moved

    def count(self) -> int:
        """Return the number of rows waiting, claimed or not."""
        number: int = self._db.execute("SELECT count(*) FROM records").fetchone()[0]
        return number

    def close(self) -> None:
        """Release the rows that this process has claimed, and close."""
        with contextlib.suppress(sqlite3.Error), self._transaction():
            self._db.execute("UPDATE records SET claimant = NULL WHERE claimant = ?", (self._claimant.name,))
        self._db.close()
        self._claimant.release()

    # -- inside

    def _open(self) -> sqlite3.Connection:
        path = self.directory / FILE_NAME
        try:
            return self._connect(path)
        except sqlite3.OperationalError as exc:
            # not the file's fault: no permission, no space, locked for too long
            msg = f"cannot open the spool {path}: {exc}"
            raise RwriterError(msg) from exc
        except sqlite3.DatabaseError as exc:
            aside = path.with_name(f"{FILE_NAME}.corrupt-{time.time_ns()}")
            log.error("the spool %s cannot be read (%s): kept as %s, a new one begun", path, exc, aside.name)
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            return self._connect(path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        # made here so that the mode is right from the first byte on; SQLite gives its -wal and -shm the same one
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.executescript(_SCHEMA)
            _check(db)
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE: the write lock is taken at once, or a reader that turns writer could fail half-way
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException as exc:
            if self._db.in_transaction:  # SQLite itself rolls back where the disk is full
                self._db.execute("ROLLBACK")
            if isinstance(exc, sqlite3.OperationalError):
                self._empty_log()
            raise

    def _empty_log(self) -> None:
        # what is in a full log may find room in the file, and the next attempt in the log
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _defer(self, statement: str, seqs: Iterable[int]) -> None:
        self._deferred.append((statement, [(seq,) for seq in seqs]))
        with self._transaction():
            self._apply_deferred()
        self._deferred.clear()

    def _apply_deferred(self) -> None:
        for statement, parameters in self._deferred:
            self._each(statement, parameters)

    def _each(self, statement: str, parameters: Sequence[tuple[object, ...]]) -> None:
        self._db.executemany(statement, parameters)

    def _check_room(self, size: int) -> None:
        used = self._used()
        if used + size > self._max_bytes:
            msg = f"the spool in {self.directory} is full: {used} of {self._max_bytes} bytes"
            raise SpoolFull(msg)
        disk = os.statvfs(self.directory)
        free = disk.f_bavail * disk.f_frsize
        log_size = (self.directory / f"{FILE_NAME}-wal").stat().st_size
        if free < size + log_size + HEADROOM:
            msg = f"the disk of the spool in {self.directory} is full: {free} bytes left"
            raise SpoolFull(msg)

    def _used(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        used: int = (pages - free) * size
        return used

    def _release_rows_of_dead_processes(self) -> None:
        claimants = self._db.execute("SELECT DISTINCT claimant FROM records WHERE claimant IS NOT NULL").fetchall()
        for (claimant,) in claimants:
            if not is_alive(self.directory, claimant):
                log.warning("adopting spooled records of a process that died (%s)", self.directory)
                self._db.execute("UPDATE records SET claimant = NULL WHERE claimant = ?", (claimant,))
                bury(self.directory, claimant)


def _check(db: sqlite3.Connection) -> None:
    (health,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if health != "ok":
        raise sqlite3.DatabaseError(health)

"""The spool's file: SQLite in WAL mode, shared by the processes of one host. Synchronous: ``_spool.py`` has a thread.

A row is unclaimed, and any process may replay it, or claimed by a living process. A claimant is known to live by a lock
that the kernel releases when its holder dies, however it dies. A row whose checksum does not match is never replayed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from rwriter.errors import SpoolFull, SpoolUnusable
from rwriter.spool import _folder, _log, _rows
from rwriter.spool._forget import forget
from rwriter.spool._liveness import Claimant, bury, is_alive
from rwriter.spool._owner import Owner, forget_stamp
from rwriter.spool._rows import FIELDS, KNOWN_AS, SELECT, Listed, Row, Stored, check, checksum_of, prepare, read_row
from rwriter.spool._salvage import salvage

T = TypeVar("T")

log = logging.getLogger("rwriter")

FILE_NAME: Final = "spool.sqlite3"
BUSY_TIMEOUT: Final = 10.0
"""Seconds to wait for another process's transaction on the file."""
HEADROOM: Final = 16 * 1024 * 1024
"""Bytes of disk left free on top of the log: taking rows out of a spool needs room, too."""
LOG_LIMIT: Final = 16 * 1024 * 1024
"""Bytes that the log keeps on disk once its pages are in the file."""

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SpoolFile:
    """The open file. Not thread-safe: every call must come from the thread that made it."""

    def __init__(self, directory: Path, *, max_bytes: int, synchronous: str, create: bool = True) -> None:
        self.directory: Final = directory
        self._path: Final = directory / FILE_NAME
        self._max_bytes = max_bytes
        self._synchronous = synchronous
        # Updates that failed on a full disk. Applied before the next claim: until then those rows look claimed.
        self._deferred: list[tuple[str, list[tuple[int]]]] = []
        with _folder.telling_why(directory):
            _folder.prepare(directory, self._path, create=create)
            self._claimant = Claimant(directory)
            try:
                self._db = self._open()
            except BaseException:
                self._claimant.release()
                raise
        self._inode = _folder.inode_of(self._path)
        self._owner: Final = Owner(directory, self._claimant.name)

    # -- whose it is

    def belongs_to(self, identity: str) -> None:
        """Stamp the file with this process's database. Raises ``ForeignSpool`` if it bears another's stamp.

        Then only rows for this process's own database are claimed, and those put from now on are known for such.
        """
        with self._transaction():
            stamp = self._owner.learn(self._db, identity)
        self._owner.check(stamp)

    def adopt(self) -> None:
        """Forget the stamp: the next database is the file's."""
        with self._transaction():
            forget_stamp(self._db)

    # -- rows in

    def put(self, rows: Sequence[Row], *, keep: bool) -> list[int]:
        """Store rows, with ``keep`` claimed by this process, and return their numbers. Raises ``SpoolFull``."""
        claimant = self._claimant.name if keep else None
        insert = (
            "INSERT INTO records (request_id, custom_id, payload, spooled_at, database, origin, checksum, claimant) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq"
        )
        size = sum(len(row.payload) for row in rows)

        def work() -> list[int]:
            self._shrink_log(size)
            with self._transaction():
                self._check_room(size)
                values = [(*row, checksum_of(row), claimant) for row in map(self._owner.sign, rows)]
                return [self._db.execute(insert, value).fetchone()[0] for value in values]

        return self._sound(work)

    # -- rows out

    def claim(self, limit: int, max_bytes: int, after: int = 0) -> list[Stored]:
        """Claim and return the oldest unclaimed rows with a number above ``after``, at least one if there is any.

        A row that is not what was put is set aside, and not returned.
        """
        return self._sound(lambda: self._claim(limit, max_bytes, after))

    def _claim(self, limit: int, max_bytes: int, after: int) -> list[Stored]:
        with self._transaction():
            self._apply_deferred()
            self._release_rows_of_dead_processes()
            claimed: list[Stored] = []
            damaged: list[int] = []
            size = 0
            with contextlib.closing(self._owner.free_rows(self._db, after)) as rows:
                for seq, row in itertools.islice(rows, limit):
                    if row is None:
                        damaged.append(seq)
                        continue
                    size += len(row.payload)
                    if claimed and size > max_bytes:
                        break
                    claimed.append(Stored(seq, row))
            self._db.executemany(
                "UPDATE records SET claimant = ? WHERE seq = ?", [(self._claimant.name, each.seq) for each in claimed]
            )
            self._set_aside(damaged, "damaged: its checksum does not match")
        self._deferred.clear()
        if damaged and not claimed:
            return self._claim(limit, max_bytes, max(damaged))
        return claimed

    def release(self, seqs: Iterable[int]) -> None:
        """Give rows that this process has claimed back for anyone to replay."""
        self._defer("UPDATE records SET claimant = NULL WHERE seq = ? AND claimant = :me", seqs)

    def remove(self, seqs: Iterable[int]) -> None:
        """Delete rows that this process has claimed: they are in the database."""
        self._defer("DELETE FROM records WHERE seq = ? AND claimant = :me", seqs)

    def set_aside(self, seqs: Iterable[int], reason: str) -> None:
        """Move rows that cannot be replayed out of the replay, with the reason."""
        numbers = list(seqs)

        def work() -> None:
            with self._transaction():
                self._set_aside(numbers, reason)

        self._sound(work)

    def _set_aside(self, seqs: Sequence[int], reason: str) -> None:
        copy = f"INSERT OR REPLACE INTO set_aside ({FIELDS}, reason) SELECT {FIELDS}, ? FROM records WHERE seq = ?"
        self._db.executemany(copy, [(reason, seq) for seq in seqs])
        self._db.executemany("DELETE FROM records WHERE seq = ?", [(seq,) for seq in seqs])

    def find(self, request_id: bytes) -> bytes | None:
        """Return the payload of the first sound row with this id."""
        return next(iter(self._payloads("request_id = ? ORDER BY seq", request_id)), None)

    def find_custom(self, custom_id: str) -> list[bytes]:
        """Return the payloads of rows whose client knows them as ``custom_id``, whoever that is, the latest first."""
        return self._payloads(f"{KNOWN_AS} ORDER BY seq DESC", custom_id)

    def _payloads(self, condition: str, value: object) -> list[bytes]:
        def work() -> list[bytes]:
            found = map(read_row, self._db.execute(f"{SELECT} FROM records WHERE {condition}", (value,)))
            return [row.payload for _, row in found if row is not None]

        return self._sound(work)

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

    def forget(self, is_theirs: Callable[[bytes], bool]) -> int:
        """Delete every row whose payload ``is_theirs``, claimed or not, and what is left of it in the file."""
        return self._sound(lambda: forget(self._db, self.directory, is_theirs))

    def restore(self) -> int:
        """Put rows that were set aside back among those to be replayed. Returns how many."""
        with self._transaction():
            moved = self._db.execute(f"INSERT INTO records ({FIELDS}) SELECT {FIELDS} FROM set_aside").rowcount
            self._db.execute("DELETE FROM set_aside")
            return moved

    def count(self) -> int:
        """Return the number of rows waiting, claimed or not."""
        number: int = self._db.execute("SELECT count(*) FROM records").fetchone()[0]
        return number

    def standing(self) -> tuple[int, int, float | None, int]:
        """Return what ``_rows.standing_of`` tells, and the bytes in use."""
        return *_rows.standing_of(self._db), self._used()

    def close(self) -> None:
        """Release the rows that this process has claimed, and close."""
        with contextlib.suppress(sqlite3.Error), self._transaction():
            self._db.execute("UPDATE records SET claimant = NULL WHERE claimant = ?", (self._claimant.name,))
        self._db.close()
        self._claimant.release()

    # -- opening, and opening anew

    def stay_in_place(self) -> None:
        """Make the file anew if it, or the folder, is gone or another one is in its place: what comes must be kept."""
        if self._inode == _folder.inode_of(self._path) and self._claimant.is_in_place():
            return
        log.error("the spool %s was removed or replaced while it was open: it is made anew", self._path)
        with _folder.telling_why(self.directory):
            old = self._db
            _folder.prepare(self.directory, self._path, create=True)
            self._claimant.renew()
            if self._inode != _folder.inode_of(self._path):
                # the rows are still there for who has the file open; those of others are saved by whoever comes first
                kept, lost = salvage(old, lambda: self._connect(self._path))
                self._db = kept.db
                log.error("%d records of the spool %s were moved to the new one, %d lost", kept.rows, self._path, lost)
        self._inode = _folder.inode_of(self._path)
        if self._owner.identity is not None:
            self.belongs_to(self._owner.identity)

    def _open(self) -> sqlite3.Connection:
        try:
            if self._claimant.is_alone():
                _log.mend(self._path)
            return self._connect(self._path)
        except sqlite3.OperationalError as exc:
            # not the file's fault: no permission, no space, locked for too long
            msg = f"cannot open the spool {self._path}: {exc}"
            raise SpoolUnusable(msg) from exc
        except sqlite3.DatabaseError as exc:
            return self._replace_damaged(exc)

    def _replace_damaged(self, exc: sqlite3.Error) -> sqlite3.Connection:
        """Keep the damaged file under another name, and return a new one with every row that can be read."""
        aside = self._path.with_name(f"{FILE_NAME}.corrupt-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).rename(aside.with_name(aside.name + suffix))
        old = _connected(aside)
        kept, lost = salvage(old, lambda: self._connect(self._path))
        log.error(
            "the spool %s cannot be read (%s): kept as %s; %d records of it are in a new one, %d at least are not",
            self._path, exc, aside.name, kept.rows, lost,
        )  # fmt: skip
        return kept.db

    def _connect(self, path: Path) -> sqlite3.Connection:
        # made here so that the mode is right from the first byte on; SQLite gives its -wal and -shm the same one
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        db = _connected(path)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
            prepare(db)
            check(db)
        except BaseException:
            db.close()
            raise
        return db

    def _sound(self, work: Callable[[], T]) -> T:
        """Do ``work`` on the file, and once more on a new one if the file turns out to be damaged."""
        try:
            return work()
        except sqlite3.DatabaseError as exc:
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                raise
            self._db.close()
            self._db = self._replace_damaged(exc)
            self._inode = _folder.inode_of(self._path)
            return work()

    # -- inside

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
        self._deferred.append((statement.replace(":me", f"'{self._claimant.name}'"), [(seq,) for seq in seqs]))

        def work() -> None:
            with self._unsynced(), self._transaction():
                self._apply_deferred()
            self._deferred.clear()

        self._sound(work)

    @contextlib.contextmanager
    def _unsynced(self) -> Iterator[None]:
        # a power cut may undo it, and then rows are replayed, which changes nothing: no sender waits for the disk
        self._db.execute(f"PRAGMA synchronous = {'OFF' if self._synchronous == 'OFF' else 'NORMAL'}")
        try:
            yield
        finally:
            self._db.execute(f"PRAGMA synchronous = {self._synchronous}")

    def _apply_deferred(self) -> None:
        for statement, parameters in self._deferred:
            self._db.executemany(statement, parameters)

    def _check_room(self, size: int) -> None:
        used = self._used()
        log_size = self._log_size()
        if used + size > self._max_bytes:
            msg = f"the spool in {self.directory} is full: {used} of {self._max_bytes} bytes"
            raise SpoolFull(msg)
        if log_size + size > self._most_log():
            # a reader that has not ended keeps the log from being written back
            msg = f"the log of the spool in {self.directory} is full, {log_size} bytes: end the readers of its file"
            raise SpoolFull(msg)
        disk = os.statvfs(self.directory)
        free = disk.f_bavail * disk.f_frsize
        if free < size + log_size + HEADROOM:
            msg = f"the disk of the spool in {self.directory} is full: {free} bytes left"
            raise SpoolFull(msg)

    def _most_log(self) -> int:
        return max(self._max_bytes, LOG_LIMIT)

    def _shrink_log(self, size: int) -> None:
        """Write a log that has grown too long back into the file, if no reader keeps it: without waiting for one."""
        if self._log_size() + size > self._most_log():
            self._db.execute("PRAGMA busy_timeout = 0")
            self._empty_log()
            self._db.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")

    def _log_size(self) -> int:
        try:
            return self._path.with_name(f"{FILE_NAME}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _used(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        used: int = (pages - free) * size
        return used

    def _release_rows_of_dead_processes(self) -> None:
        # as bytes: a damaged name may be no text
        claimants = "SELECT DISTINCT CAST(claimant AS BLOB) FROM records WHERE claimant IS NOT NULL"
        for (found,) in self._db.execute(claimants).fetchall():
            claimant = found.decode("utf-8", "replace")
            if not is_alive(self.directory, claimant):
                log.warning("adopting spooled records of a process that died (%s)", self.directory)
                self._db.execute("UPDATE records SET claimant = NULL WHERE CAST(claimant AS BLOB) = ?", (found,))
                bury(self.directory, claimant)


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    # a text with a flipped bit is read like any other: its row's checksum tells
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    return db

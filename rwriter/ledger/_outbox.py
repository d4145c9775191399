"""Entries that the database has not taken yet: in memory, and in a file beside the spool where there is one.

Whoever opens the same spool next writes what a process that died has left in such a file.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from rwriter._chain.entries import Entry, decode_entry, encode_entry

log = logging.getLogger("rwriter")

_PATTERN: Final = "ledger-*.jsonl"


class Outbox:
    """Holds the entries of a writer's own lane in order until they are written."""

    def __init__(self, writer_id: uuid.UUID, folder: Path | None) -> None:
        self._waiting: Final[deque[Entry]] = deque()
        self._path: Final = None if folder is None else folder / f"ledger-{writer_id}.jsonl"
        self._lock: Final = threading.Lock()
        self._file: int | None = None
        self._on_disk = 0
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entry: Entry) -> None:
        """Add an entry."""
        self._waiting.append(entry)

    def first(self, number: int) -> list[Entry]:
        """Return the oldest entries."""
        return [self._waiting[at] for at in range(min(number, len(self._waiting)))]

    def written(self, number: int) -> None:
        """Remove the oldest entries: they are in the database."""
        for _ in range(number):
            self._waiting.popleft()
        self._on_disk = max(0, self._on_disk - number)

    @property
    def has_work(self) -> bool:
        """True where what is on disk is not what waits."""
        return self._path is not None and (len(self._waiting) > self._on_disk or self._file is not None)

    def keep(self) -> None:
        """Put on disk what is not there yet, or remove the file once nothing waits. Blocks; called on a thread."""
        # a call whose caller was cancelled may still be at work
        with self._lock:
            if self._path is None:
                return
            if self._waiting:
                self._append(self._path)
            elif self._file is not None:
                self._path.unlink(missing_ok=True)
                os.close(self._file)
                self._file, self._on_disk, self._size = None, 0, 0

    def _append(self, path: Path) -> None:
        if self._file is None:
            self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            # for as long as this process lives
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = os.fstat(self._file).st_size
        new = [self._waiting[at] for at in range(self._on_disk, len(self._waiting))]
        if new:
            self._write(self._file, b"".join(base64.b64encode(encode_entry(entry)) + b"\n" for entry in new))
            self._on_disk += len(new)

    def _write(self, file: int, lines: bytes) -> None:
        # a full disk may have taken a part of the last try: whoever reads the file stops at a broken line
        os.ftruncate(file, self._size)
        left = memoryview(lines)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
        self._size += len(lines)

    def release(self) -> None:
        """Leave the file to whoever opens the spool next."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Left(NamedTuple):
    """A file that a process left when it died, locked by this one, and the entries in it."""

    path: Path
    file: int
    entries: list[Entry]

    def remove(self) -> None:
        """Remove the file: its entries are in the database. Blocks; called on a thread."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def release(self) -> None:
        """Let another process have the file."""
        os.close(self.file)


def left_in(folder: Path) -> list[Left]:
    """Return what dead processes have left in ``folder``. Blocks; called on a thread."""
    found = [(path, _locked(path)) for path in sorted(folder.glob(_PATTERN))]
    return [Left(path, file, list(_entries(path))) for path, file in found if file is not None]


def _locked(path: Path) -> int | None:
    """Return a file with its lock, or ``None`` where a living process holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _entries(path: Path) -> Iterator[Entry]:
    for line in path.read_bytes().splitlines():
        try:
            yield decode_entry(base64.b64decode(line, validate=True))
        except (msgspec.MsgspecError, ValueError):
            # the process died while it wrote: what follows would leave a gap
            log.warning("an entry of the ledger in %s cannot be read: it and those behind it are left out", path)
            return

"""The claimants of a spool: each is a living process, known by a lock that the kernel releases when it dies."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import Final

# the claimants of this process: POSIX locks do not exclude their own process, so a second spool here cannot see them
_LIVING: Final[set[str]] = set()
# a child has none of its parent's spools, and would take the parent for alive after its death
os.register_at_fork(after_in_child=_LIVING.clear)


class Claimant:
    """This process's name in a spool's folder, and the lock that says that it lives."""

    def __init__(self, directory: Path) -> None:
        self.name: Final = uuid.uuid4().hex
        self._path: Final = _lock_path(directory, self.name)
        # POSIX, not flock: a forked child would inherit a flock and keep its dead parent alive
        self._lock: Final = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _LIVING.add(self.name)

    def release(self) -> None:
        """Give up the name: rows that still carry it belong to nobody."""
        self._path.unlink(missing_ok=True)
        os.close(self._lock)
        _LIVING.discard(self.name)


def is_alive(directory: Path, name: str) -> bool:
    """Return True while the claimant of that name lives, in this process or another."""
    if name in _LIVING:
        return True
    try:
        lock = os.open(_lock_path(directory, name), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def bury(directory: Path, name: str) -> None:
    """Remove the lock file of a claimant that died."""
    _lock_path(directory, name).unlink(missing_ok=True)


def _lock_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.lock"

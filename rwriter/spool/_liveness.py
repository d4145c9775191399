"""The claimants of a spool: each is a living process, known by a lock that the kernel releases when it dies."""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from pathlib import Path
from typing import Final

_NAME: Final = re.compile("[0-9a-f]{32}")

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
        self._lock = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _LIVING.add(self.name)

    def is_in_place(self) -> bool:
        """Return True while other processes find the lock where they look for it."""
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        held = os.fstat(self._lock)
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def is_alone(self) -> bool:
        """Return True unless another claimant of the folder lives."""
        directory = self._path.parent
        names = [path.stem for path in directory.glob("*.lock") if path.stem != self.name]
        return not any(is_alive(directory, name) for name in names)

    def renew(self) -> None:
        """Put the lock back where it was removed."""
        if self.is_in_place():
            return
        lock = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(self._lock)
        self._lock = lock

    def release(self) -> None:
        """Give up the name: rows that still carry it belong to nobody."""
        self._path.unlink(missing_ok=True)
        os.close(self._lock)
        _LIVING.discard(self.name)


def is_alive(directory: Path, name: object) -> bool:
    """Return True while the claimant of that name lives, in this process or another."""
    if name in _LIVING:
        return True
    if not _is_name(name):
        return False
    try:
        lock = os.open(_lock_path(directory, name), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def bury(directory: Path, name: object) -> None:
    """Remove the lock file of a claimant that died."""
    if _is_name(name):
        _lock_path(directory, name).unlink(missing_ok=True)


def _is_name(name: object) -> bool:
    # what stands in the file is not trusted: a name that is a path must not reach the file system
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _lock_path(directory: Path, name: object) -> Path:
    return directory / f"{name}.lock"

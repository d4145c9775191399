"""The folder of a spool: made for its user alone, and refused where others could read or write what is in it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rwriter.errors import SpoolUnusable

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def prepare(directory: Path, file: Path, *, create: bool) -> None:
    """Make the folder if need be. Raises ``SpoolUnusable`` for a folder or file that is not this user's alone."""
    if create:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not file.exists():
        msg = f"there is no spool in {directory}"
        raise SpoolUnusable(msg)
    _refuse_foreign(directory, stat.S_ISDIR, "a folder")
    for suffix in ("", "-wal", "-shm"):
        part = file.with_name(file.name + suffix)
        if os.path.lexists(part):
            _refuse_foreign(part, stat.S_ISREG, "a plain file")


def inode_of(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another, or ``None`` where there is none."""
    try:
        found = path.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def telling_why(directory: Path) -> Iterator[None]:
    """Raise what the disk and SQLite raise as ``SpoolUnusable``, with the folder."""
    try:
        yield
    except (OSError, sqlite3.Error) as exc:
        msg = f"cannot use the spool in {directory}: {exc}"
        raise SpoolUnusable(msg) from exc


def _refuse_foreign(path: Path, is_right: Callable[[int], bool], wanted: str) -> None:
    found = path.lstat()
    if not is_right(found.st_mode):
        found_kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "something else"
        msg = f"{path} must be {wanted}, and is {found_kind}"
        raise SpoolUnusable(msg)
    if found.st_uid != os.geteuid():
        msg = f"{path} belongs to another user (uid {found.st_uid}): a spool must be its user's own"
        raise SpoolUnusable(msg)
    if found.st_mode & _WRITABLE_BY_OTHERS:
        msg = f"others can write to {path} (mode {stat.S_IMODE(found.st_mode):o}): take that away with chmod go-w"
        raise SpoolUnusable(msg)

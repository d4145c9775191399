"""The account a server runs as, the folders that account can use, and the data folders that can be trusted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rwriter.errors import RwriterError

_FALLBACKS: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 -- names in them are made by mkdtemp
_UNQUOTABLE: Final = frozenset('"$`\\\n')
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def server_account(data_dir: Path | None = None) -> pwd.struct_passwd | None:
    """Return the account to run a server as: ``None`` for the caller's own; ``postgres`` or ``nobody`` for root.

    Where one of the two owns ``data_dir``, it is that one: an account ``postgres`` may have been created since. Raises
    ``RwriterError`` where there is neither.
    """
    if os.geteuid() != 0:
        return None
    accounts = []
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            accounts.append(pwd.getpwnam(name))
    if not accounts:
        msg = "PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as"
        raise RwriterError(msg)
    status = None if data_dir is None else _lstat(data_dir)
    owners = [account for account in accounts if status is not None and account.pw_uid == status.st_uid]
    return (owners or accounts)[0]


def run_as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments that make ``subprocess`` run a program as ``account``."""
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def temporary_folder(account: pwd.struct_passwd | None, *, to_run: bool = False) -> Path:
    """Return a folder for what ``account`` is to use, or, with ``to_run``, to execute: ``TMPDIR`` if that will do.

    Raises ``RwriterError``, with what is wrong with each, where no folder will do.
    """
    faults = []
    for name in dict.fromkeys((tempfile.gettempdir(), *_FALLBACKS)):
        folder = Path(name).resolve()
        fault = _unusable(folder, account, to_run=to_run)
        if fault is None:
            return folder
        faults.append(f"{folder} {fault}")
    msg = f"no temporary folder for PostgreSQL: {'; '.join(faults)}. Set TMPDIR to a folder that every user may enter"
    raise RwriterError(msg)


def barrier(path: Path, account: pwd.struct_passwd | None) -> Path | None:
    """Return the first folder, from the root down to ``path``, that ``account`` may not enter; ``None`` for none."""
    if account is None:
        return None
    folders = [folder for folder in (path, *path.parents) if folder.is_dir()]
    return next((folder for folder in reversed(folders) if not _may_enter(folder.stat(), account)), None)


def quotable(path: Path) -> bool:
    """Return whether PostgreSQL's programs can use ``path``: they hand paths in double quotes to a shell."""
    return not _UNQUOTABLE & set(str(path))


def check_data_dir(folder: Path, account: pwd.struct_passwd | None) -> None:
    """Raise ``RwriterError`` if a server run by ``account`` cannot use ``folder``, or if others may have planted it.

    Anyone can foresee the name of the demo's folder, and the files in a data folder say which process to signal, which
    port to trust and what to remove.
    """
    if not quotable(folder):
        msg = f"PostgreSQL cannot use {str(folder)!r}: choose a data_dir without quotes, $, ` and backslashes"
        raise RwriterError(msg)
    closed = barrier(folder.parent, account)
    if closed is not None and account is not None:
        msg = f"the server runs as {account.pw_name}, who may not enter {closed}: choose another data_dir than {folder}"
        raise RwriterError(msg)
    status = _lstat(folder)
    fault = None if status is None else _distrusted(status, account)
    if fault is not None:
        msg = f"{folder} {fault}, and is not used: see what it is and remove it, or choose another data_dir"
        raise RwriterError(msg)


@contextlib.contextmanager
def held(folder: Path, account: pwd.struct_passwd | None) -> Iterator[None]:
    """Create ``folder`` if it is missing and lock it, so that only one process starts a server in it at a time.

    Raises ``RwriterError`` as ``check_data_dir`` does.
    """
    while True:
        check_data_dir(folder, account)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_data_dir(folder, account)  # it may not be the one just created
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # deleted since
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            status = _lstat(folder)
            # the process that held the lock may have deleted the folder
            if status is not None and os.path.samestat(os.fstat(descriptor), status):
                yield
                return
        finally:
            os.close(descriptor)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _unusable(folder: Path, account: pwd.struct_passwd | None, *, to_run: bool) -> str | None:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written to"
    if not quotable(folder):
        return "has a quote, $, ` or backslash in its name"
    # without os.ST_NOEXEC, as on macOS, it cannot be told
    if to_run and os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        return "is mounted noexec"
    if account is None:
        return None
    if barrier(folder, account) is not None:
        return f"is closed to {account.pw_name}"
    # not "/": whoever owns that owns everything
    above = [path for path in (folder, *folder.parents) if path != path.parent]
    return None if all(_keeps_names(path.stat(), account) for path in above) else "can be tampered with by others"


def _may_enter(status: os.stat_result, account: pwd.struct_passwd) -> bool:
    if status.st_uid == account.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _keeps_names(status: os.stat_result, account: pwd.struct_passwd) -> bool:
    """Return whether the entries of a folder can be renamed only by us, the account and their owners."""
    sticky = bool(status.st_mode & stat.S_ISVTX)
    return status.st_uid in _trusted(account) and (sticky or not status.st_mode & _WRITABLE_BY_OTHERS)


def _distrusted(status: os.stat_result, account: pwd.struct_passwd | None) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is no folder"
    if status.st_uid not in _trusted(account):
        return f"belongs to another user ({_name(status.st_uid)})"
    return "may be written to by others" if status.st_mode & _WRITABLE_BY_OTHERS else None


def _trusted(account: pwd.struct_passwd | None) -> set[int]:
    return {os.geteuid()} if account is None else {os.geteuid(), account.pw_uid}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

"""The accounts and folders of a server, looked at without one."""

from __future__ import annotations

import fcntl
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest

from rwriter import RwriterError
from rwriter.testing._places import barrier, check_data_dir, held, run_as, server_account, temporary_folder
from tests.support.servers import needs_root

STRANGER: Final = 54_321
"""The number of a user and of a group that no machine has a name for."""


def account(uid: int = STRANGER, gid: int = STRANGER) -> pwd.struct_passwd:
    return pwd.struct_passwd(("somebody", "x", uid, gid, "", "/", "/bin/sh"))


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


def no_such_user(name: str) -> pwd.struct_passwd:
    raise KeyError(name)


@pytest.mark.usefixtures("unprivileged")
def test_an_ordinary_user_runs_the_server_itself() -> None:
    assert server_account() is None
    assert run_as(None) == {}


def test_root_without_an_account_to_run_the_server_as_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", no_such_user)
    with pytest.raises(RwriterError, match="no user postgres or nobody"):
        server_account()


@pytest.mark.parametrize(
    ("mode", "owner", "group", "enters"),
    [
        (0o700, True, False, True),
        (0o677, True, False, False),
        (0o710, False, True, True),
        (0o707, False, True, False),
        (0o701, False, False, True),
        (0o770, False, False, False),
    ],
)
def test_the_bits_that_let_an_account_in_are_those_of_its_class(
    place: Path, mode: int, owner: bool, group: bool, enters: bool
) -> None:
    folder = place / "folder"
    folder.mkdir()
    status = folder.stat()
    folder.chmod(mode)
    somebody = account(status.st_uid if owner else STRANGER, status.st_gid if group else STRANGER)
    assert barrier(folder, somebody) == (None if enters else folder)
    assert barrier(folder, None) is None


def test_a_temporary_folder_that_no_shell_takes_is_passed_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = place / "$HOME"
    odd.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    assert temporary_folder(server_account()) != odd.resolve()


@pytest.mark.usefixtures("unprivileged")
def test_an_ordinary_user_keeps_to_the_temporary_folder_that_is_set(place: Path) -> None:
    place.chmod(0o777)
    assert temporary_folder(None) == place.resolve()


def test_a_data_folder_that_no_shell_takes_is_refused(place: Path) -> None:
    with pytest.raises(RwriterError, match="without quotes"):
        check_data_dir(place / 'a "b"', server_account())


def test_a_file_in_the_place_of_the_data_folder_is_refused(place: Path) -> None:
    (place / "data").touch()
    with pytest.raises(RwriterError, match="data is no folder"):
        check_data_dir(place / "data", server_account())


@needs_root
def test_an_owner_without_a_name_is_told_by_number(place: Path) -> None:
    (place / "data").mkdir(mode=0o700)
    os.chown(place / "data", STRANGER, STRANGER)
    with pytest.raises(RwriterError, match=f"another user \\({STRANGER}\\)"):
        check_data_dir(place / "data", server_account())


@pytest.mark.parametrize("returns", [False, True])
def test_a_folder_that_goes_while_its_lock_is_waited_for_is_made_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    data, lock = place / "data", fcntl.flock
    deleted: list[int] = []

    def lock_after_it_is_deleted(descriptor: int, operation: int) -> None:
        if not deleted:
            deleted.append(os.fstat(descriptor).st_ino)
            data.rmdir()
            if returns:
                data.mkdir(mode=0o700)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_after_it_is_deleted)
    with held(data, server_account()):
        assert data.is_dir()
    assert len(deleted) == 1


def test_a_folder_that_goes_before_it_is_opened_is_made_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, open_ = place / "data", os.open
    deleted: list[Path] = []

    def open_after_it_is_deleted(path: Path, flags: int, **named: Any) -> int:
        if path == data and not deleted:
            deleted.append(path)
            data.rmdir()
        return open_(path, flags, **named)

    monkeypatch.setattr(os, "open", open_after_it_is_deleted)
    with held(data, server_account()):
        assert data.is_dir()
    assert deleted == [data]

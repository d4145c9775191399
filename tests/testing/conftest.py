"""Folders of every kind for servers to be started in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwriter.testing._places import server_account, temporary_folder
from tests.support.servers import ODD_NAME


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder of this test alone; the server's account may enter it. Nothing is left in it."""
    with tempfile.TemporaryDirectory(prefix="rwriter test ö ", dir=temporary_folder(server_account())) as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield folder


@pytest.fixture
def marker(place: Path) -> Iterator[Path]:
    """A file that is there once a planted program was run, by whomever."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder / "was-run"


@pytest.fixture
def closed(place: Path) -> Iterator[Path]:
    """A folder that only the user of this process may enter."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name) / ODD_NAME
        folder.mkdir(mode=0o700)
        yield folder

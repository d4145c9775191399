"""``make suite-lowest`` runs on the floors that pyproject.toml declares, and each help page can be printed there."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = [
    *PROJECT["dependencies"],
    *PROJECT["optional-dependencies"]["archive"],
    *PROJECT["optional-dependencies"]["asgi"],
    *PROJECT["optional-dependencies"]["embedded"],
    *PROJECT["optional-dependencies"]["nats"],
]
FLOORS = [match.groups() for line in DECLARED if (match := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", line))]
PAGES = (
    "",
    *("ls", "show", "tail", "stats", "usage", "purge", "erase", "reap"),
    *("migrate", "current", "check", "demo", "archive", "consume"),
    *("spool", "spool ls", "spool show", "spool replay", "spool purge"),
    *("dead-letters", "dead-letters ls", "dead-letters show", "dead-letters replay", "dead-letters purge"),
)


def numbers(version: str) -> list[int]:
    found = [int(part) for part in version.split(".")]
    return found + [0] * (4 - len(found))


@pytest.mark.skipif("RWRITER_LOWEST" not in os.environ, reason="asked of the environment of `make suite-lowest` alone")
@pytest.mark.parametrize(("package", "floor"), FLOORS)
def test_the_environment_has_the_lowest_version_declared(package: str, floor: str) -> None:
    installed = importlib.metadata.version(package)
    assert numbers(installed) == numbers(floor)


def test_every_dependency_declares_a_floor() -> None:
    assert len(FLOORS) == len(DECLARED)


@pytest.mark.parametrize("page", PAGES)
def test_each_help_page_is_printed(page: str) -> None:
    command = [sys.executable, "-m", "rwriter.cli", *page.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout

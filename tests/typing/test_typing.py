"""A service's own type checker judges code that uses rwriter, rightly and wrongly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IGNORE = re.compile(r"  # type: ignore\[([\w-]+)\]")
ERROR = re.compile(r"misuse\.py:(\d+): error: .*\[([\w-]+)\]$")


def mypy(*files: Path) -> list[str]:
    """The errors of mypy for a project that has the strictest settings and none of rwriter's own."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--hide-error-context", "--no-pretty"]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Run it on the good code and on the bad without its comments, both at once, since each takes seconds."""
    bare = tmp_path_factory.mktemp("typing") / "misuse.py"
    bare.write_text(IGNORE.sub("", (HERE / "misuse.py").read_text()))
    return mypy(HERE / "service.py", bare)


def test_a_service_that_uses_the_library_as_documented_has_no_type_errors(errors: list[str]) -> None:
    assert [line for line in errors if "service.py" in line] == []


def test_each_mistake_is_found_where_it_is_made(errors: list[str]) -> None:
    expected = {
        (number, code)
        for number, line in enumerate((HERE / "misuse.py").read_text().splitlines(), 1)
        for code in IGNORE.findall(line)
    }
    matches = [ERROR.search(line) for line in errors]
    assert {(int(match[1]), match[2]) for match in matches if match} == expected

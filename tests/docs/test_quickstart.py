"""Pages are pasted as they stand there: in a clean environment, on the built wheel, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.clean import pasted
from tests.docs.pages import ROOT, files, noted

README = ROOT / "README.md"
TESTING = ROOT / "docs/how-to/testing.md"


@pytest.mark.slow
def test_the_quickstart_of_the_readme_runs_when_pasted(tmp_path: Path, wheel: Path, empty_database: str) -> None:
    (tmp_path / "quickstart.py").write_text(noted(README, "quickstart: program"))
    commands = noted(README, "quickstart: commands") + "python quickstart.py\n"
    done = pasted(commands, tmp_path, wheel, RWRITER_DATABASE_URL=empty_database)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(noted(README, "quickstart: output"))


@pytest.mark.slow
def test_the_project_of_the_page_on_tests_is_green(tmp_path: Path, wheel: Path, rwriter_postgres: str) -> None:
    written = files(TESTING)
    assert set(written) == {"commands", "pytest.ini", "service.py", "test_service.py", "conftest.py"}
    commands = written.pop("commands")
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    done = pasted(commands + "python -m pytest -q\n", tmp_path, wheel, RWRITER_TEST_DATABASE_URL=rwriter_postgres)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout

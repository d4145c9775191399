"""The README's quickstart as it stands there: in a clean environment, on the built wheel, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, noted

README = ROOT / "README.md"


def built_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_quickstart_of_the_readme_runs_when_pasted(tmp_path: Path, empty_database: str) -> None:
    wheel = built_wheel(tmp_path / "dist")
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    # `pip install rwriter` finds the wheel, and neither the checkout nor a release
    (tmp_path / "constraints.txt").write_text(f"rwriter @ {wheel.as_uri()}\n")
    (tmp_path / "quickstart.py").write_text(noted(README, "quickstart: program"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RWRITER_", "PYTHON"))}
    environment |= {
        "PATH": f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONSTRAINT": str(tmp_path / "constraints.txt"),
        "RWRITER_DATABASE_URL": empty_database,
    }
    pasted = "set -e\n" + noted(README, "quickstart: commands") + "python quickstart.py\n"
    done = subprocess.run(
        ["bash", "-c", pasted], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(noted(README, "quickstart: output"))

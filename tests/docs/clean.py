"""A virtual environment with the built wheel in it, in which the commands of a page run as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.docs.pages import ROOT


def built_wheel(folder: Path) -> Path:
    """Build the wheel into ``folder`` and return its path."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pasted(commands: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``commands`` in ``folder``, in an environment of its own.

    The wheel is there, alone: ``pip install rwriter`` adds what it needs, and takes neither the checkout nor a release.
    """
    wheel = built_wheel(folder / "dist")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RWRITER_", "PYTHON"))}
    environment |= {
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        **variables,
    }
    return subprocess.run(
        ["bash", "-c", f"set -e\npip install --quiet --no-deps {wheel}\n{commands}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

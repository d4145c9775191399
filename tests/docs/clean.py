"""A virtual environment with the built wheel in it, in which the commands of a page run as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

# pip would compile all it installs, most of which these pages never import
PIP: Final = {"PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def pasted(commands: str, folder: Path, wheel: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``commands`` in ``folder``, in an environment of its own.

    ``wheel`` is there, alone: ``pip install rwriter`` adds what it needs, and takes neither the checkout nor a release.
    """
    programs = _environment(folder / "venv")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RWRITER_", "PYTHON"))}
    environment |= PIP | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["bash", "-c", f"set -e\npip install --quiet --no-deps {wheel}\n{commands}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _environment(folder: Path) -> Path:
    """Make an empty environment and return the folder of its programs; its ``pip`` is this environment's."""
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    pip = programs / "pip"
    # installing pip itself would take longer than what is installed by it
    pip.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip --python "{programs / "python"}" "$@"\n')
    pip.chmod(0o755)
    return programs

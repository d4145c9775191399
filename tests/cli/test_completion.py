"""The shell completes commands and options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine

PLACES = {
    "bash": "data/bash-completion/completions/rwriter",
    "zsh": ".zfunc/_rwriter",
    "fish": "config/fish/completions/rwriter.fish",
}


def at_home(folder: Path, shell: str) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "SHELL": f"/usr/bin/{shell}",
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


@pytest.mark.parametrize("shell", PLACES)
async def test_completion_is_one_file_that_the_shell_reads(command: CommandLine, tmp_path: Path, shell: str) -> None:
    shown = await command("--show-completion", **at_home(tmp_path, shell))
    assert "_RWRITER_COMPLETE" in shown.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    installed = await command("--install-completion", **at_home(tmp_path, shell))
    assert installed.code == 0
    assert PLACES[shell] in installed.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / PLACES[shell]]
    assert (tmp_path / PLACES[shell]).read_text(encoding="utf-8") == shown.stdout


async def test_a_shell_without_completion_is_told_which_have_it(command: CommandLine, tmp_path: Path) -> None:
    refused = await command("--install-completion", **at_home(tmp_path, "tcsh"))
    assert refused.code == 2
    assert "bash, zsh and fish" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    command = tmp_path / "rwriter"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from rwriter.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    script = f"""
PATH="{tmp_path}:$PATH"
eval "$(SHELL=/bin/bash rwriter --show-completion)"
COMP_WORDS=(rwriter dead-letters p)
COMP_CWORD=2
_rwriter_completion rwriter
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["purge"]

"""``rwriter --show-completion`` and ``--install-completion``: the script that has a shell complete commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

VARIABLE: Final = "_RWRITER_COMPLETE"
"""The environment variable through which the script asks, derived by click from the command's name."""


def _show(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(_script(context, _shell()))
        context.exit()


def _install(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        shell = _shell()
        path = _place(shell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_script(context, shell) + "\n", encoding="utf-8")
        click.echo(f"{shell} completion written to {path}; it works in shells started from now on.")
        if shell == "zsh":
            click.echo(f"In ~/.zshrc, before compinit: fpath+=({path.parent})")
        context.exit()


show = click.option(
    "--show-completion", is_flag=True, is_eager=True, expose_value=False, callback=_show,
    help="Print the completion script for the shell in use.",
)  # fmt: skip
install = click.option(
    "--install-completion", is_flag=True, is_eager=True, expose_value=False, callback=_install,
    help="Have the shell in use complete commands and options.",
)  # fmt: skip


def _shell() -> str:
    """Return ``bash``, ``zsh`` or ``fish``, as ``SHELL`` names it; raises ``click.UsageError`` for any other."""
    name = Path(os.environ.get("SHELL", "")).name
    if get_completion_class(name) is None:
        msg = "completion is there for bash, zsh and fish: set SHELL to one of them"
        raise click.UsageError(msg)
    return name


def _script(context: click.Context, shell: str) -> str:
    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(shell)
    return completion(context.command, {}, "rwriter", VARIABLE).source()


def _place(shell: str) -> Path:
    """Return the file that ``shell`` reads by itself: bash through bash-completion, zsh once the folder is in fpath."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": data / "bash-completion/completions/rwriter",
        "fish": config / "fish/completions/rwriter.fish",
        "zsh": home / ".zfunc/_rwriter",
    }[shell]

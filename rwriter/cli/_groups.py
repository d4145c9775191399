"""Groups of commands: listed in their order, and of the outermost one loaded when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import click

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "show_default": True}
"""Settings of the outermost group, inherited by every command."""


class Group(click.Group):
    """Lists commands in the order in which they were added: click sorts them by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names of the commands."""
        return list(self.commands)


class Place(NamedTuple):
    """Names the module of ``rwriter.cli.commands`` that has a command, and the line for a list of commands.

    The line is the command's own. To take it from the command, the list would have to import every module.
    """

    module: str
    line: str


class LazyGroup(click.Group):
    """Imports the module of a command when it is asked for: SQLAlchemy and Alembic take a second."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.places: Mapping[str, Place] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names of the commands."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- as above
        """Return the command called ``cmd_name``, or ``None``."""
        place = self.places.get(cmd_name)
        if place is None:
            return None
        module = importlib.import_module(f"rwriter.cli.commands.{place.module}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- as above
        """Write the list of commands, as click does."""
        limit = formatter.width - 6 - max(map(len, self.places))
        lines = [
            (name, click.Command(name, help=place.line).get_short_help_str(limit))
            for name, place in self.places.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(lines)

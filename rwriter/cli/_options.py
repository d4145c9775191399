"""Options and arguments that several commands share, and the group that lists its commands in order."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

import click

from rwriter.engines import DbEngines
from rwriter.engines._urls import URL_FORM
from rwriter.errors import RwriterError
from rwriter.migrate import SCHEMA_VARIABLE, URL_VARIABLE

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "show_default": True}
"""Settings of the outermost group, inherited by every command."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST: Final = 36_500 * 86_400
"""Seconds. Subtracted from today, more would leave the calendar."""


def duration(text: str) -> timedelta:
    """Return the time that ``90s``, ``30m``, ``12h`` or ``7d`` says; raises ``click.BadParameter``."""
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", text)
    seconds = 0 if match is None else int(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= _LONGEST:
        msg = f"{text!r} is no duration: write 90s, 30m, 12h or 7d, at most {_LONGEST // 86_400}d"
        raise click.BadParameter(msg)
    return timedelta(seconds=seconds)


class Group(click.Group):
    """Lists commands in the order in which they were added: click sorts them by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names of the commands."""
        return list(self.commands)


database_url = click.option("--database-url", metavar="URL", envvar=URL_VARIABLE, show_envvar=True, help=URL_FORM)
schema = click.option(
    "--schema", metavar="NAME", envvar=SCHEMA_VARIABLE, show_envvar=True, help="Where the tables are."
)
json = click.option("--json", is_flag=True, help="JSON instead of lines for people.")
limit = click.option("--limit", type=click.IntRange(min=1), default=100, help="Most lines.")
bodies = click.option("--bodies", is_flag=True, help="Print both bodies whole.")
older_than = click.option("--older-than", type=duration, metavar="DURATION", required=True, help="90s, 30m, 12h or 7d.")


def engines_for(database_url: str | None, schema: str | None, *, pool_size: int = 5) -> DbEngines:
    """Return engines for the options given; raises ``RwriterError`` where no database is named."""
    if not database_url:
        msg = f"no database given: pass --database-url, or set {URL_VARIABLE}"
        raise RwriterError(msg)
    return DbEngines.from_url(database_url, schema=schema, pool_size=pool_size)

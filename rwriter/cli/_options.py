"""Options and arguments that several commands share."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, TypeAlias

import typer

from rwriter.engines import DbEngines
from rwriter.engines._urls import URL_FORM
from rwriter.errors import RwriterError
from rwriter.migrate import SCHEMA_VARIABLE, URL_VARIABLE

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST: Final = 36_500 * 86_400
"""Seconds. Subtracted from today, more would leave the calendar."""


def duration(text: str) -> timedelta:
    """Return the time that ``90s``, ``30m``, ``12h`` or ``7d`` says; raises ``typer.BadParameter``."""
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", text)
    seconds = 0 if match is None else int(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= _LONGEST:
        msg = f"{text!r} is no duration: write 90s, 30m, 12h or 7d, at most {_LONGEST // 86_400}d"
        raise typer.BadParameter(msg)
    return timedelta(seconds=seconds)


DatabaseUrl: TypeAlias = Annotated[
    str | None, typer.Option("--database-url", metavar="URL", envvar=URL_VARIABLE, help=URL_FORM)
]
Schema: TypeAlias = Annotated[
    str | None,
    typer.Option("--schema", metavar="NAME", envvar=SCHEMA_VARIABLE, help="Where the tables are."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON instead of lines for people.")]
Limit: TypeAlias = Annotated[int, typer.Option(min=1, help="Most lines.")]
Bodies: TypeAlias = Annotated[bool, typer.Option("--bodies", help="Print both bodies whole.")]
OlderThan: TypeAlias = Annotated[
    timedelta, typer.Option(parser=duration, metavar="DURATION", help="90s, 30m, 12h or 7d.")
]


def engines_for(database_url: str | None, schema: str | None) -> DbEngines:
    """Return engines for the options given; raises ``RwriterError`` where no database is named."""
    if not database_url:
        msg = f"no database given: pass --database-url, or set {URL_VARIABLE}"
        raise RwriterError(msg)
    return DbEngines.from_url(database_url, schema=schema)

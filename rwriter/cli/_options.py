"""Options that several commands share."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, TypeAlias

import typer

from rwriter._urls import URL_FORM
from rwriter.migrate import SCHEMA_VARIABLE, URL_VARIABLE

DatabaseUrl: TypeAlias = Annotated[
    str | None, typer.Option("--database-url", metavar="URL", envvar=URL_VARIABLE, help=URL_FORM)
]
Schema: TypeAlias = Annotated[
    str | None,
    typer.Option("--schema", metavar="NAME", envvar=SCHEMA_VARIABLE, help="Where the tables are."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration(text: str) -> timedelta:
    """``90s``, ``30m``, ``1h`` or ``7d``; raises ``typer.BadParameter``."""
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None or int(match[1]) == 0:
        msg = f"{text!r} is no duration: write 90s, 30m, 1h or 7d"
        raise typer.BadParameter(msg)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])

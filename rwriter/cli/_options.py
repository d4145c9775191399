"""Options and arguments that several commands share, and the group that lists its commands in order."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from rwriter._values.variables import SCHEMA_VARIABLE, URL_FORM, URL_VARIABLE
from rwriter.engines import DbEngines
from rwriter.errors import RwriterError
from rwriter.schema import STATES

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


def moment(text: str) -> datetime:
    """Return the time that a duration before now says, or an ISO 8601 date or time; of UTC where it names no zone."""
    if re.fullmatch(r"[0-9]+[smhd]", text):
        return datetime.now(UTC) - duration(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{text!r} is no time: write 7d for seven days ago, 2026-03-04 or 2026-03-04T05:06:07+01:00"
        raise click.BadParameter(msg) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


database_url = click.option("--database-url", metavar="URL", envvar=URL_VARIABLE, show_envvar=True, help=URL_FORM)
schema = click.option(
    "--schema", metavar="NAME", envvar=SCHEMA_VARIABLE, show_envvar=True, help="Where the tables are."
)
json = click.option("--json", is_flag=True, help="JSON instead of lines for people.")
limit = click.option("--limit", type=click.IntRange(min=1), default=100, help="Most lines.")
bodies = click.option("--bodies", is_flag=True, help="Print both bodies whole.")
older_than = click.option("--older-than", type=duration, metavar="DURATION", required=True, help="90s, 30m, 12h or 7d.")
owner = click.option("--owner", metavar="NAME", help="Only what is created_by this one.")
models = click.option("--model", "models", metavar="NAME", multiple=True, help="Only this model; may be repeated.")
status = click.option("--status", type=click.Choice(STATES), help="Only requests in this state.")
yes = click.option("--yes", is_flag=True, help="Do not ask.")
spool_folder = click.option(
    "--spool", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER", help="A spool, too."
)


def since(default: str | None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option ``--since``."""
    return click.option("--since", type=moment, metavar="WHEN", default=default, help="7d (ago), 2026-03-04 or a time.")


until = click.option("--until", type=moment, metavar="WHEN", help="As --since; without it, now.")


def engines_for(
    database_url: str | None, schema: str | None, *, pool_size: int = 5, statement_timeout: float = 30.0
) -> DbEngines:
    """Return engines for the options given; raises ``RwriterError`` where no database is named."""
    if not database_url:
        msg = f"no database given: pass --database-url, or set {URL_VARIABLE}"
        raise RwriterError(msg)
    return DbEngines.from_url(database_url, schema=schema, pool_size=pool_size, statement_timeout=statement_timeout)

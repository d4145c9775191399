"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from rwriter._values import asked
from rwriter._values.variables import SCHEMA_VARIABLE, URL_FORM, URL_VARIABLE
from rwriter.engines import DbEngines
from rwriter.errors import RwriterError
from rwriter.schema import STATES

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _typed(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Wrap ``read`` so that click says the words of its ``ValueError``: of a plain one it says the value alone."""

    @functools.wraps(read)
    def reading(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except ValueError as exc:
            raise click.BadParameter(str(exc)) from None

    return reading


duration, moment, fact = _typed(asked.duration), _typed(asked.moment), _typed(asked.fact)
"""Types of options."""


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

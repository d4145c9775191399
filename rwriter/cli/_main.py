"""The outermost command, and how the command line ends."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from typing import Final, NoReturn

import click

from rwriter._database_errors import explain
from rwriter._values.escape import escape
from rwriter.cli import _completion as completion
from rwriter.cli import _options as options
from rwriter.cli.commands.archive import archive
from rwriter.cli.commands.consume import consume
from rwriter.cli.commands.dead_letters import dead_letters
from rwriter.cli.commands.demo import demo
from rwriter.cli.commands.doctor import doctor
from rwriter.cli.commands.partitions import partitions
from rwriter.cli.commands.removal import erase, purge
from rwriter.cli.commands.requests import ls, reap, show, tail
from rwriter.cli.commands.schema import check, current, migrate
from rwriter.cli.commands.spool import spool
from rwriter.cli.commands.usage import stats, usage
from rwriter.migrate import URL_VARIABLE

FAILED: Final = 1
MISUSED: Final = 2

URL_OPTIONS: Final = ("--database-url", "--from", "--archive")
_PLACES: Final = ("s3", "gs", "file")
"""Schemes of an archive's place. One with credentials in it is refused as any other URL is."""


@click.group("rwriter", cls=options.Group, context_settings=options.CONTEXT)
@click.version_option(
    importlib.metadata.version("rwriter"), message="rwriter %(version)s", help="Print the version and exit."
)
@completion.install
@completion.show
def app() -> None:
    """Bring a database to this release's schema, look after it, see the library at work."""


# in the order in which the help lists them
for command in (
    *(ls, show, tail, stats, usage, purge, erase, reap),
    *(migrate, current, check, doctor, demo, partitions, archive, consume, spool, dead_letters),
):
    app.add_command(command)


def main() -> None:
    """Run the command line and exit: 0, 1 with the reason on stderr, or 2 for a command that makes no sense."""
    _refuse_stray_url(sys.argv[1:])
    try:
        app(prog_name="rwriter")
    except Exception as exc:  # noqa: BLE001 -- a traceback may show a password, and helps nobody in a deployment's log
        _fail(explain(exc) or f"{type(exc).__name__}: {exc}".splitlines()[0])


def _refuse_stray_url(arguments: list[str]) -> None:
    # usage errors quote the argument that makes no sense, and this one would be quoted with its password
    for before, argument in itertools.pairwise(["", *arguments]):
        scheme, is_url, rest = argument.partition("://")
        if scheme in _PLACES and "@" not in rest:
            continue
        if is_url and before not in URL_OPTIONS and argument.partition("=")[0] not in URL_OPTIONS:
            _fail(f"give the database as --database-url URL, or set {URL_VARIABLE}", MISUSED)


def _fail(message: str, code: int = FAILED) -> NoReturn:
    # the lists of `check` have lines of their own, in which texts of others are escaped already
    click.echo("\n".join(map(escape, f"rwriter: {message}".split("\n"))), err=True)
    raise SystemExit(code)

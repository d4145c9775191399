"""The outermost command, and how the command line ends."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from typing import Final, NoReturn

import click

from rwriter._values.escape import escape
from rwriter._values.variables import URL_VARIABLE
from rwriter.cli import _completion as completion
from rwriter.cli._groups import CONTEXT, LazyGroup, Place

FAILED: Final = 1
MISUSED: Final = 2

URL_OPTIONS: Final = ("--database-url", "--from", "--archive")
_PLACES: Final = ("s3", "gs", "file")
"""Schemes of an archive's place. One with credentials in it is refused as any other URL is."""


@click.group("rwriter", cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(
    importlib.metadata.version("rwriter"), message="rwriter %(version)s", help="Print the version and exit."
)
@completion.install
@completion.show
def app() -> None:
    """Bring a database to this release's schema, look after it, see the library at work."""


# in the order in which the help lists them
app.places = {
    "ls": Place("requests", "List requests, newest first."),
    "show": Place("requests", "Print one request, its bodies cut."),
    "tail": Place("requests", "Print requests as they are stored, a line each, until Ctrl-C."),
    "stats": Place("usage", "Show requests by state, what is stuck, dead letters, sizes, and a spool."),
    "usage": Place("usage", "Sum up requests, failures, tokens and times."),
    "purge": Place("removal", "Delete finished requests and dead letters that are older, the oldest first."),
    "erase": Place("removal", "Delete everything of OWNER's, for good: requests, bodies and dead letters."),
    "audit": Place("audit", "Compare the ledger with the rows."),
    "reap": Place("requests", "Fail realtime requests that have been processing for longer: their process died."),
    "migrate": Place("schema", "Bring the tables to this release's revision."),
    "current": Place("schema", "Print the revision the database is at."),
    "check": Place("schema", "Exit with 1, and the reason, unless the tables are what this release needs."),
    "doctor": Place("doctor", "Look at database, pepper and spool."),
    "demo": Place("demo", "Feed the writer real traffic and show the rows stored."),
    "partitions": Place("partitions", "Look after the weeks or days of partitioned tables."),
    "archive": Place("archive", "Move old partitions to Parquet in TO, a folder or s3://BUCKET/PREFIX, and drop them."),
    "consume": Place(
        "consume",
        "Store what services publish to a stream, until SIGTERM; then finish what is in hand and print the account.",
    ),
    "spool": Place("spool", "Look after records that wait on disk for the database."),
    "dead-letters": Place("dead_letters", "Look after the records that the database refused."),
}


def main() -> None:
    """Run the command line and exit: 0, 1 with the reason on stderr, or 2 for a command that makes no sense."""
    _refuse_stray_url(sys.argv[1:])
    try:
        app(prog_name="rwriter")
    except Exception as exc:  # noqa: BLE001 -- a traceback may show a password, and helps nobody in a deployment's log
        from rwriter._database_errors import explain  # noqa: PLC0415 -- it needs the drivers, which most commands have

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

"""rwriter's command line: bring a database to this release's schema, ask where it stands, see the library at work."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from typing import Annotated, Final, NoReturn

import typer

from rwriter._database_errors import explain
from rwriter._escape import escape
from rwriter.cli._dead_letters import dead_letters_app
from rwriter.cli._demo import demo_app
from rwriter.cli._doctor import doctor_app
from rwriter.cli._requests import requests_app
from rwriter.cli._schema import schema_app
from rwriter.cli._spool import spool_app
from rwriter.migrate import URL_VARIABLE

FAILED: Final = 1
MISUSED: Final = 2

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # plain lines, for the logs of deployments
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# the top-level commands, in the order in which the help lists them
for group in (requests_app, schema_app, doctor_app, demo_app):
    app.add_typer(group)
app.add_typer(spool_app, name="spool")
app.add_typer(dead_letters_app, name="dead-letters")


def main() -> None:
    """Run the command line and exit: 0, 1 with the reason on stderr, or 2 for a command that makes no sense."""
    _refuse_stray_url(sys.argv[1:])
    try:
        app(prog_name="rwriter")
    except Exception as exc:  # noqa: BLE001 -- a traceback may show a password, and helps nobody in a deployment's log
        _fail(explain(exc) or f"{type(exc).__name__}: {exc}".splitlines()[0])


@app.callback(invoke_without_command=True)
def _options(
    *, version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")] = False
) -> None:
    if version:
        typer.echo(f"rwriter {importlib.metadata.version('rwriter')}")
        raise typer.Exit


def _refuse_stray_url(arguments: list[str]) -> None:
    # usage errors quote the argument that makes no sense, and this one would be quoted with its password
    for before, argument in itertools.pairwise(["", *arguments]):
        if "://" in argument and before != "--database-url" and not argument.startswith("--database-url="):
            _fail(f"give the database as --database-url URL, or set {URL_VARIABLE}", MISUSED)


def _fail(message: str, code: int = FAILED) -> NoReturn:
    # the lists of `check` have lines of their own, in which texts of others are escaped already
    typer.echo("\n".join(map(escape, f"rwriter: {message}".split("\n"))), err=True)
    raise SystemExit(code)

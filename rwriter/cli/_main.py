"""rwriter's command line: bring a database to this release's schema, ask where it stands, see the library at work."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import logging
import sys
from typing import Annotated, Final, NoReturn

import typer

from rwriter import migrate as migrations
from rwriter._database_errors import explain
from rwriter._urls import URL_FORM
from rwriter.cli._operations import dead_letters_app, reap, spool_app
from rwriter.cli._options import DatabaseUrl, Schema
from rwriter.migrate import URL_VARIABLE
from rwriter.schema import HEAD_REVISION

FAILED: Final = 1
MISUSED: Final = 2

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    # plain lines, for the logs of deployments
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


app.command()(reap)
app.add_typer(spool_app, name="spool")
app.add_typer(dead_letters_app, name="dead-letters")


def main() -> None:
    """Run the command line. Ends the process: 0, 1 with the reason on stderr, 2 for a command that makes no sense."""
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


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="A revision of rwriter's; with --sql also FROM:TO.")] = "head",
    *,
    schema: Schema = None,
    database_url: DatabaseUrl = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead, for a database without any.")] = False,
) -> None:
    """Bring the tables to this release's revision. Safe to run from many processes at once."""
    if sql:
        typer.echo(migrations.upgrade_sql(revision, schema=schema), nl=False)
        return
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("alembic").setLevel(logging.INFO)
    asyncio.run(migrations.upgrade(database_url, revision, schema=schema))
    _print_current(database_url, schema)


@app.command()
def current(*, schema: Schema = None, database_url: DatabaseUrl = None) -> None:
    """Print the revision the database is at."""
    _print_current(database_url, schema)


@app.command()
def check(*, schema: Schema = None, database_url: DatabaseUrl = None) -> None:
    """Exit with 1, and the reason, unless the tables are what this release needs."""
    asyncio.run(migrations.check(database_url, schema=schema))
    typer.echo("the tables are what this release needs")


@app.command()
def demo(
    *,
    # not from the environment: the demo writes, and that variable may well name production
    database_url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"A server of your own, {URL_FORM}; else one is started here.")
    ] = None,
    schema: Annotated[str | None, typer.Option(metavar="NAME", help="Where the tables are.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the server an earlier run left behind.")] = False,
) -> None:
    """Feed the writer real traffic and show what is stored."""
    import rwriter.demo  # noqa: PLC0415 -- the other commands must not need what it imports

    raise typer.Exit(rwriter.demo.main(database_url=database_url, schema=schema, stop=stop))


def _print_current(database_url: str | None, schema: str | None) -> None:
    revision = asyncio.run(migrations.current(database_url, schema=schema))
    if revision is None:
        typer.echo("no revision of rwriter: run `rwriter migrate`")
    elif revision == HEAD_REVISION:
        typer.echo(f"{revision} (head)")
    else:
        typer.echo(f"{revision} (the head of this release is {HEAD_REVISION})")


def _refuse_stray_url(arguments: list[str]) -> None:
    # usage errors quote the argument that makes no sense, and this one would be quoted with its password
    for before, argument in itertools.pairwise(["", *arguments]):
        if "://" in argument and before != "--database-url" and not argument.startswith("--database-url="):
            _fail(f"give the database as --database-url URL, or set {URL_VARIABLE}", MISUSED)


def _fail(message: str, code: int = FAILED) -> NoReturn:
    typer.echo(f"rwriter: {message}", err=True)
    raise SystemExit(code)

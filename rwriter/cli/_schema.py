"""``rwriter migrate``, ``current`` and ``check``: the database's schema and this release's."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Annotated

import typer

from rwriter import migrate as migrations
from rwriter._escape import escape
from rwriter.cli._options import DatabaseUrl, Json, Schema
from rwriter.cli._output import to_json
from rwriter.schema import HEAD_REVISION

schema_app = typer.Typer()


class _OneLine(logging.Formatter):
    # Alembic logs the revisions that it found in the database
    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


@schema_app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="A revision of rwriter's; with --sql also FROM:TO.")] = "head",
    *,
    schema: Schema = None,
    database_url: DatabaseUrl = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead, for a database without any.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Add what is missing to tables that the daemon made.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --adopt: name what would be added.")] = False,
) -> None:
    """Bring the tables to this release's revision. Safe to run from many processes at once."""
    if sql:
        typer.echo(migrations.upgrade_sql(revision, schema=schema), nl=False)
        return
    if adopt or dry_run:
        _adopt(database_url, schema, adopt=adopt, dry_run=dry_run)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.INFO)
    asyncio.run(migrations.upgrade(database_url, revision, schema=schema))
    _print_current(database_url, schema)


def _adopt(database_url: str | None, schema: str | None, *, adopt: bool, dry_run: bool) -> None:
    if not adopt:
        raise typer.BadParameter("--dry-run is of --adopt")
    asyncio.run(migrations.adopt(database_url, schema=schema, dry_run=dry_run, announce=typer.echo))
    if not dry_run:
        _print_current(database_url, schema)


@schema_app.command()
def current(*, schema: Schema = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Print the revision the database is at."""
    _print_current(database_url, schema, json=json)


@schema_app.command()
def check(*, schema: Schema = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Exit with 1, and the reason, unless the tables are what this release needs."""
    asyncio.run(migrations.check(database_url, schema=schema))
    typer.echo(to_json({"head": HEAD_REVISION}) if json else "the tables are what this release needs")


def _print_current(database_url: str | None, schema: str | None, *, json: bool = False) -> None:
    revision = asyncio.run(migrations.current(database_url, schema=schema))
    if json:
        typer.echo(to_json({"revision": revision, "head": HEAD_REVISION}))
    elif revision is None:
        typer.echo("no revision of rwriter: run `rwriter migrate`")
    elif revision == HEAD_REVISION:
        typer.echo(f"{revision} (head)")
    else:
        typer.echo(f"{escape(revision)} (the head of this release is {HEAD_REVISION})")

"""``rwriter migrate``, ``current`` and ``check``: the database's schema and this release's."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Literal

import click

from rwriter import migrate as migrations
from rwriter._values.escape import escape
from rwriter.cli import _options as options
from rwriter.cli._output import to_json
from rwriter.schema import HEAD_REVISION


class _OneLine(logging.Formatter):
    # Alembic logs the revisions that it found in the database
    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


@click.command("migrate")
@click.argument("revision", default="head")
@options.schema
@options.database_url
@click.option("--sql", is_flag=True, help="Print the SQL instead, for a database without any.")
@click.option("--partitioned", type=click.Choice(["week", "day"]), help="Make new tables, with a partition for each.")
@click.option("--adopt", is_flag=True, help="Add what is missing to tables that the daemon made.")
@click.option("--dry-run", is_flag=True, help="With --adopt: name what would be added.")
def migrate(  # noqa: PLR0913 -- an option each
    *,
    revision: str,
    schema: str | None,
    database_url: str | None,
    sql: bool,
    partitioned: Literal["week", "day"] | None,
    adopt: bool,
    dry_run: bool,
) -> None:
    """Bring the tables to this release's revision.

    REVISION is one of rwriter's, the latest by default; with --sql also FROM:TO. Safe to run from many processes at
    once.
    """
    if sql:
        click.echo(migrations.upgrade_sql(revision, schema=schema, partitioned=partitioned), nl=False)
        return
    if adopt or dry_run:
        if partitioned is not None:
            raise click.UsageError("--partitioned makes new tables: leave --adopt out")
        _adopt(database_url, schema, adopt=adopt, dry_run=dry_run)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.INFO)
    asyncio.run(migrations.upgrade(database_url, revision, schema=schema, partitioned=partitioned))
    _print_current(database_url, schema)


def _adopt(database_url: str | None, schema: str | None, *, adopt: bool, dry_run: bool) -> None:
    if not adopt:
        raise click.UsageError("--dry-run is of --adopt")
    asyncio.run(migrations.adopt(database_url, schema=schema, dry_run=dry_run, announce=click.echo))
    if not dry_run:
        _print_current(database_url, schema)


@click.command("current")
@options.schema
@options.database_url
@options.json
def current(*, schema: str | None, database_url: str | None, json: bool) -> None:
    """Print the revision the database is at."""
    _print_current(database_url, schema, json=json)


@click.command("check")
@options.schema
@options.database_url
@options.json
def check(*, schema: str | None, database_url: str | None, json: bool) -> None:
    """Exit with 1, and the reason, unless the tables are what this release needs."""
    asyncio.run(migrations.check(database_url, schema=schema))
    click.echo(to_json({"head": HEAD_REVISION}) if json else "the tables are what this release needs")


def _print_current(database_url: str | None, schema: str | None, *, json: bool = False) -> None:
    revision = asyncio.run(migrations.current(database_url, schema=schema))
    variant = asyncio.run(migrations.variant(database_url, schema=schema))
    by = f", partitioned by {escape(variant)}" if variant not in {None, "plain"} else ""
    if json:
        click.echo(to_json({"revision": revision, "head": HEAD_REVISION, "tables": variant}))
    elif revision is None:
        click.echo("no revision of rwriter: run `rwriter migrate`")
    elif revision == HEAD_REVISION:
        click.echo(f"{revision} (head){by}")
    else:
        click.echo(f"{escape(revision)} (the head of this release is {HEAD_REVISION}){by}")

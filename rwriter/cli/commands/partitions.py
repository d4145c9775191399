"""``rwriter partitions ...``: lists, makes and drops the weeks or days of partitioned tables."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from rwriter import partitions as weeks
from rwriter.cli import _options as options
from rwriter.cli._groups import Group
from rwriter.cli._output import print_rows
from rwriter.partitions import Partition

_COLUMNS: Final = ("from", "to", "rows", "size", "state")


@click.group("partitions", cls=Group)
def partitions() -> None:
    """Look after the weeks or days of partitioned tables."""


@partitions.command("ls")
@options.schema
@options.database_url
@options.json
def partitions_ls(*, schema: str | None, database_url: str | None, json: bool) -> None:
    """List the partitions, oldest first, with the planner's estimate of their rows and their size in bytes."""
    _print(asyncio.run(_listing(database_url, schema)), json=json)


@partitions.command("ensure")
@click.option(
    "--ahead", type=options.duration, metavar="DURATION", default=f"{weeks.AHEAD.days}d", help="How far from now."
)
@click.option("--since", type=options.duration, metavar="DURATION", help="Those of the past, too: 90s, 30m, 12h or 7d.")
@options.schema
@options.database_url
@options.json
def partitions_ensure(
    *, ahead: timedelta, since: timedelta | None, schema: str | None, database_url: str | None, json: bool
) -> None:
    """Make the partitions that are missing, and list them. Writers go on. Safe to repeat, once a day for example."""

    async def work() -> list[Partition]:
        begin = None if since is None else datetime.now(UTC) - since
        async with options.engines_for(database_url, schema) as engines:
            return await weeks.ensure(engines, ahead=ahead, since=begin)

    _print(asyncio.run(work()), json=json)


@partitions.command("drop")
@options.older_than
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.schema
@options.database_url
@options.json
def partitions_drop(
    *, older_than: timedelta, yes: bool, schema: str | None, database_url: str | None, json: bool
) -> None:
    """Drop the partitions that are older as a whole, every row in them included, and list them. Writers go on.

    What an earlier call left half done is completed first.
    """
    before = datetime.now(UTC) - older_than
    if not yes:
        old = [each for each in asyncio.run(_listing(database_url, schema)) if each.end <= before]
        if old:
            _ask(old)

    async def work() -> list[Partition]:
        async with options.engines_for(database_url, schema) as engines:
            return await weeks.drop(engines, before)

    _print(asyncio.run(work()), json=json)


def _ask(old: Sequence[Partition]) -> None:
    rows, first, last = sum(each.rows for each in old), old[0].start, old[-1].end
    question = f"Drop {len(old)} partitions, {first:%Y-%m-%d} to {last:%Y-%m-%d}, with about {rows} requests?"
    click.confirm(question, abort=True, err=True)


async def _listing(database_url: str | None, schema: str | None) -> list[Partition]:
    async with options.engines_for(database_url, schema) as engines:
        return await weeks.listing(engines)


def _print(found: Iterable[Partition], *, json: bool) -> None:
    print_rows([_row(each) for each in found], _COLUMNS, json=json)


def _row(partition: Partition) -> dict[str, Any]:
    return {
        "from": f"{partition.start:%Y-%m-%dT%H:%MZ}",
        "to": f"{partition.end:%Y-%m-%dT%H:%MZ}",
        "rows": partition.rows,
        "size": partition.size,
        "state": partition.state,
    }

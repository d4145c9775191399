"""``rwriter spool ...``: lists, replays and purges the records that wait on disk for the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from rwriter.cli import _options as options
from rwriter.cli._groups import Group
from rwriter.cli._output import print_record, print_rows, row_of, to_json
from rwriter.records import CompletedRequest
from rwriter.spool import Spool
from rwriter.writer import RequestsWriter

REPLAY_POLL: Final = 0.1
"""Seconds between two looks at the number of records left."""

_directory = click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group("spool", cls=Group)
def spool() -> None:
    """Look after records that wait on disk for the database."""


@spool.command("ls")
@_directory
@options.limit
@options.json
def spool_ls(*, directory: Path, limit: int, json: bool) -> None:
    """List the records in the spool, oldest first."""

    async def work() -> list[dict[str, Any]]:
        async with _opened(directory) as opened:
            return [row_of(item, item.spooled_at) for item in await opened.listing(limit)]

    print_rows(asyncio.run(work()), ("seq", "request_id", "age", "size", "claimed", "reason"), json=json)


@spool.command("show")
@_directory
@click.argument("seq", type=int)
@options.bodies
@options.json
def spool_show(*, directory: Path, seq: int, bodies: bool, json: bool) -> None:
    """Print one record, with the key's digest and cut bodies."""

    async def work() -> CompletedRequest | None:
        async with _opened(directory) as opened:
            return await opened.show(seq)

    print_record(asyncio.run(work()), f"record {seq}", bodies=bodies, json=json)


@spool.command("replay")
@_directory
@click.option("--set-aside", is_flag=True, help="Those that were set aside, too.")
@click.option("--timeout", type=click.FloatRange(min=1), default=60, help="Seconds to keep trying.")
@options.schema
@options.database_url
@options.json
def spool_replay(
    *, directory: Path, set_aside: bool, timeout: float, schema: str | None, database_url: str | None, json: bool
) -> None:
    """Store the records in the spool now.

    Rows claimed by another process are left to it. Safe to repeat.
    """

    async def work() -> dict[str, int]:
        async with options.engines_for(database_url, schema) as engines:
            async with _opened(directory) as opened:
                if set_aside:
                    await opened.restore()
            async with RequestsWriter(engines, spool=Spool(directory)) as writer:
                left = await _replayed(directory, time.monotonic() + timeout)
            return {"replayed": writer.stats.replayed, "left": left}

    answer = asyncio.run(work())
    click.echo(to_json(answer) if json else f"replayed {answer['replayed']} records, {answer['left']} left")
    if answer["left"]:
        raise click.exceptions.Exit(1)


@spool.command("purge")
@_directory
@options.older_than
@click.option("--set-aside", is_flag=True, help="Only those that were set aside.")
@options.json
def spool_purge(*, directory: Path, older_than: timedelta, set_aside: bool, json: bool) -> None:
    """Delete older records for good, unless a process has claimed them."""

    async def work() -> int:
        async with _opened(directory) as opened:
            return await opened.purge(time.time() - older_than.total_seconds(), set_aside_only=set_aside)

    number = asyncio.run(work())
    click.echo(to_json({"purged": number}) if json else f"purged {number} records")


@asynccontextmanager
async def _opened(directory: Path) -> AsyncIterator[Spool]:
    opened = Spool(directory)
    await opened.open(create=False)
    try:
        yield opened
    finally:
        await opened.aclose()


async def _replayed(directory: Path, deadline: float) -> int:
    """Wait until the spool is empty or the deadline has come, and return the number of records left."""
    async with _opened(directory) as opened:
        while True:
            left = await opened.count()
            if not left or time.monotonic() > deadline:
                return left
            await asyncio.sleep(REPLAY_POLL)

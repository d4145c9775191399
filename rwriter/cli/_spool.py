"""``rwriter spool ...``: lists, replays and purges the records that wait on disk for the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer

from rwriter.cli._options import Bodies, DatabaseUrl, Json, Limit, OlderThan, Schema, engines_for
from rwriter.cli._output import print_record, print_rows, row_of, to_json
from rwriter.records import CompletedRequest
from rwriter.spool import Spool
from rwriter.writer import RequestsWriter

REPLAY_POLL: Final = 0.1
"""Seconds between two looks at the number of records left."""

spool_app = typer.Typer(help="The spool on disk: what waits for the database to come back.", no_args_is_help=True)

Directory: TypeAlias = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The spool's folder.")]


@spool_app.command("ls")
def spool_ls(directory: Directory, *, limit: Limit = 100, json: Json = False) -> None:
    """List the records in the spool, oldest first."""

    async def work() -> list[dict[str, Any]]:
        async with _opened(directory) as spool:
            return [row_of(item, item.spooled_at) for item in await spool.listing(limit)]

    print_rows(asyncio.run(work()), ("seq", "request_id", "age", "size", "claimed", "reason"), json=json)


@spool_app.command("show")
def spool_show(directory: Directory, seq: int, *, bodies: Bodies = False, json: Json = False) -> None:
    """Print one record, with the key's digest and cut bodies."""

    async def work() -> CompletedRequest | None:
        async with _opened(directory) as spool:
            return await spool.show(seq)

    print_record(asyncio.run(work()), f"record {seq}", bodies=bodies, json=json)


@spool_app.command("replay")
def spool_replay(
    directory: Directory,
    *,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="Those that were set aside, too.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to keep trying.")] = 60,
    schema: Schema = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Store the records in the spool now. Rows claimed by another process are left to it. Safe to repeat."""

    async def work() -> dict[str, int]:
        async with engines_for(database_url, schema) as engines:
            async with _opened(directory) as spool:
                if set_aside:
                    await spool.restore()
            async with RequestsWriter(engines, spool=Spool(directory)) as writer:
                left = await _replayed(directory, time.monotonic() + timeout)
            return {"replayed": writer.stats.replayed, "left": left}

    answer = asyncio.run(work())
    typer.echo(to_json(answer) if json else f"replayed {answer['replayed']} records, {answer['left']} left")
    if answer["left"]:
        raise typer.Exit(1)


@spool_app.command("purge")
def spool_purge(
    directory: Directory,
    *,
    older_than: OlderThan,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="Only those that were set aside.")] = False,
    json: Json = False,
) -> None:
    """Delete older records for good, unless a process has claimed them."""

    async def work() -> int:
        async with _opened(directory) as spool:
            return await spool.purge(time.time() - older_than.total_seconds(), set_aside_only=set_aside)

    number = asyncio.run(work())
    typer.echo(to_json({"purged": number}) if json else f"purged {number} records")


@asynccontextmanager
async def _opened(directory: Path) -> AsyncIterator[Spool]:
    spool = Spool(directory)
    await spool.open(create=False)
    try:
        yield spool
    finally:
        await spool.aclose()


async def _replayed(directory: Path, deadline: float) -> int:
    """Wait until the spool is empty or the deadline has come, and return the number of records left."""
    async with _opened(directory) as spool:
        while True:
            left = await spool.count()
            if not left or time.monotonic() > deadline:
                return left
            await asyncio.sleep(REPLAY_POLL)

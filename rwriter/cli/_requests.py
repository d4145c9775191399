"""``rwriter reap``: fails requests whose process died."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import click

from rwriter.cli import _options as options
from rwriter.cli._output import to_json
from rwriter.store import RequestStore


@click.command("reap")
@options.older_than
@options.schema
@options.database_url
@options.json
def reap(*, older_than: timedelta, schema: str | None, database_url: str | None, json: bool) -> None:
    """Fail realtime requests that have been processing for longer: their process died."""

    async def work() -> int:
        async with options.engines_for(database_url, schema) as engines:
            return await RequestStore(engines).fail_stale(older_than)

    number = asyncio.run(work())
    click.echo(to_json({"failed": number}) if json else f"failed {number} requests")

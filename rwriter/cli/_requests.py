"""``rwriter reap``: fails requests whose process died."""

from __future__ import annotations

import asyncio

import typer

from rwriter.cli._options import DatabaseUrl, OlderThan, Schema, engines_for
from rwriter.store import RequestStore

requests_app = typer.Typer()


@requests_app.command()
def reap(*, older_than: OlderThan, schema: Schema = None, database_url: DatabaseUrl = None) -> None:
    """Fail realtime requests that have been processing for longer: their process died."""

    async def work() -> int:
        async with engines_for(database_url, schema) as engines:
            return await RequestStore(engines).fail_stale(older_than)

    typer.echo(f"failed {asyncio.run(work())} requests")

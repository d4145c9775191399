"""``rwriter reap``: fails requests whose process died."""

from __future__ import annotations

import asyncio

import typer

from rwriter.cli._options import DatabaseUrl, Json, OlderThan, Schema, engines_for
from rwriter.cli._output import to_json
from rwriter.store import RequestStore

requests_app = typer.Typer()


@requests_app.command()
def reap(*, older_than: OlderThan, schema: Schema = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Fail realtime requests that have been processing for longer: their process died."""

    async def work() -> int:
        async with engines_for(database_url, schema) as engines:
            return await RequestStore(engines).fail_stale(older_than)

    number = asyncio.run(work())
    typer.echo(to_json({"failed": number}) if json else f"failed {number} requests")

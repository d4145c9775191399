"""``rwriter dead-letters ...``: lists, replays and purges the records that the database refused."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from rwriter.cli._options import Bodies, DatabaseUrl, Json, Limit, OlderThan, Schema, engines_for
from rwriter.cli._output import print_record, print_rows, row_of, to_json
from rwriter.records import CompletedRequest
from rwriter.store import DeadLetters

dead_letters_app = typer.Typer(help="Records the database refused.", no_args_is_help=True)


@dead_letters_app.command("ls")
def dead_letters_ls(
    *, limit: Limit = 100, schema: Schema = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """List the refused records, oldest first, with the reason."""

    async def work() -> list[dict[str, Any]]:
        async with engines_for(database_url, schema) as engines:
            letters = await DeadLetters(engines).listing(limit)
        return [
            # the first line alone: the DETAIL below it may quote the row
            row_of(letter, letter.created_at.timestamp()) | {"error": next(iter(letter.error.splitlines()), "")}
            for letter in letters
        ]

    columns = ("id", "request_id", "created_by", "age", "size", "sqlstate", "error")
    print_rows(asyncio.run(work()), columns, json=json)


@dead_letters_app.command("show")
def dead_letters_show(
    letter: uuid.UUID,
    *,
    bodies: Bodies = False,
    schema: Schema = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Print the record in one letter, with the key's digest and cut bodies."""

    async def work() -> CompletedRequest | None:
        async with engines_for(database_url, schema) as engines:
            return await DeadLetters(engines).show(letter)

    print_record(asyncio.run(work()), f"letter {letter}", bodies=bodies, json=json)


@dead_letters_app.command("replay")
def dead_letters_replay(
    letter: Annotated[uuid.UUID | None, typer.Argument(help="One letter; without it, all.")] = None,
    *,
    schema: Schema = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Store refused records again, once the cause is mended. Records refused again stay. Safe to repeat."""

    async def work() -> tuple[int, int]:
        async with engines_for(database_url, schema) as engines:
            return await DeadLetters(engines).replay(letter)

    stored, refused = asyncio.run(work())
    answer = {"stored": stored, "refused": refused}
    typer.echo(to_json(answer) if json else f"stored {stored} records, {refused} still refused")
    if refused:
        raise typer.Exit(1)


@dead_letters_app.command("purge")
def dead_letters_purge(
    *, older_than: OlderThan, schema: Schema = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Delete older letters for good."""

    async def work() -> int:
        async with engines_for(database_url, schema) as engines:
            return await DeadLetters(engines).purge(datetime.now(UTC) - older_than)

    number = asyncio.run(work())
    typer.echo(to_json({"purged": number}) if json else f"purged {number} letters")

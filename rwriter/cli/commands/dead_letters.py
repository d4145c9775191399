"""``rwriter dead-letters ...``: lists, replays and purges the records that the database refused."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from rwriter.cli import _options as options
from rwriter.cli._groups import Group
from rwriter.cli._output import print_record, print_rows, row_of, to_json
from rwriter.records import CompletedRequest
from rwriter.store import DeadLetters


@click.group("dead-letters", cls=Group)
def dead_letters() -> None:
    """Look after the records that the database refused."""


@dead_letters.command("ls")
@options.limit
@options.schema
@options.database_url
@options.json
def dead_letters_ls(*, limit: int, schema: str | None, database_url: str | None, json: bool) -> None:
    """List the refused records, oldest first, with the reason."""

    async def work() -> list[dict[str, Any]]:
        async with options.engines_for(database_url, schema) as engines:
            letters = await DeadLetters(engines).listing(limit)
        return [
            # the first line alone: the DETAIL below it may quote the row
            row_of(letter, letter.created_at.timestamp()) | {"error": next(iter(letter.error.splitlines()), "")}
            for letter in letters
        ]

    columns = ("id", "request_id", "created_by", "age", "size", "sqlstate", "error")
    print_rows(asyncio.run(work()), columns, json=json)


@dead_letters.command("show")
@click.argument("letter", type=click.UUID)
@options.bodies
@options.schema
@options.database_url
@options.json
def dead_letters_show(
    *, letter: uuid.UUID, bodies: bool, schema: str | None, database_url: str | None, json: bool
) -> None:
    """Print the record in one letter, with the key's digest and cut bodies."""

    async def work() -> CompletedRequest | None:
        async with options.engines_for(database_url, schema) as engines:
            return await DeadLetters(engines).show(letter)

    print_record(asyncio.run(work()), f"letter {letter}", bodies=bodies, json=json)


@dead_letters.command("replay")
@click.argument("letter", type=click.UUID, required=False)
@options.schema
@options.database_url
@options.json
def dead_letters_replay(*, letter: uuid.UUID | None, schema: str | None, database_url: str | None, json: bool) -> None:
    """Store refused records again, once the cause is mended.

    Without LETTER, all of them. Records refused again stay. Safe to repeat.
    """

    async def work() -> tuple[int, int]:
        async with options.engines_for(database_url, schema) as engines:
            return await DeadLetters(engines).replay(letter)

    stored, refused = asyncio.run(work())
    answer = {"stored": stored, "refused": refused}
    click.echo(to_json(answer) if json else f"stored {stored} records, {refused} still refused")
    if refused:
        raise click.exceptions.Exit(1)


@dead_letters.command("purge")
@options.older_than
@options.schema
@options.database_url
@options.json
def dead_letters_purge(*, older_than: timedelta, schema: str | None, database_url: str | None, json: bool) -> None:
    """Delete older letters for good."""

    async def work() -> int:
        async with options.engines_for(database_url, schema) as engines:
            return await DeadLetters(engines).purge(datetime.now(UTC) - older_than)

    number = asyncio.run(work())
    click.echo(to_json({"purged": number}) if json else f"purged {number} letters")

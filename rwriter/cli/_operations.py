"""``rwriter reap``, ``rwriter spool ...`` and ``rwriter dead-letters ...``: what an operator does by hand."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from rwriter.cli._options import DatabaseUrl, Json, Schema, duration
from rwriter.engines import DbEngines
from rwriter.errors import RwriterError
from rwriter.migrate import URL_VARIABLE
from rwriter.records import CompletedRequest
from rwriter.spool import Spool
from rwriter.store import DeadLetters, RequestStore
from rwriter.writer import RequestsWriter

CUT: Final = 200
"""Characters of a body that ``show`` prints without ``--bodies``."""

REPLAY_POLL: Final = 0.1

spool_app = typer.Typer(help="The spool on disk: what waits for the database to come back.", no_args_is_help=True)
dead_letters_app = typer.Typer(help="Records the database refused.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The spool's folder.")]
Limit = Annotated[int, typer.Option(min=1, help="Most lines.")]
Bodies = Annotated[bool, typer.Option("--bodies", help="Print both bodies whole.")]
OlderThan = Annotated[timedelta, typer.Option(parser=duration, metavar="DURATION", help="90s, 30m, 1h or 7d.")]


def reap(*, older_than: OlderThan, schema: Schema = None, database_url: DatabaseUrl = None) -> None:
    """Fail realtime requests that have been processing for longer: their process died."""

    async def work() -> int:
        async with _engines(database_url, schema) as engines:
            return await RequestStore(engines).fail_stale(older_than)

    typer.echo(f"failed {asyncio.run(work())} requests")


@spool_app.command("ls")
def spool_ls(directory: Directory, *, limit: Limit = 100, json: Json = False) -> None:
    """List what is in the spool, oldest first."""

    async def work() -> list[dict[str, Any]]:
        async with _opened(directory) as spool:
            return [_row(item, item.spooled_at) for item in await spool.listing(limit)]

    _print(asyncio.run(work()), ("seq", "request_id", "age", "size", "in_hand", "reason"), json=json)


@spool_app.command("show")
def spool_show(directory: Directory, seq: int, *, bodies: Bodies = False, json: Json = False) -> None:
    """Print one record, with the key's fingerprint and cut bodies."""

    async def work() -> CompletedRequest | None:
        async with _opened(directory) as spool:
            return await spool.show(seq)

    _print_record(asyncio.run(work()), f"record {seq}", bodies=bodies, json=json)


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
    """Store what is in the spool now. Rows another process has in hand are left to it. Safe to repeat."""

    async def work() -> dict[str, int]:
        async with _engines(database_url, schema) as engines:
            if set_aside:
                async with _opened(directory) as spool:
                    await spool.restore()
            async with RequestsWriter(engines, spool=Spool(directory)) as writer:
                left = await _replayed(directory, time.monotonic() + timeout)
            return {"replayed": writer.stats.replayed, "left": left}

    answer = asyncio.run(work())
    typer.echo(_json(answer) if json else f"replayed {answer['replayed']} records, {answer['left']} left")
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
    """Forget records, for good, that are older and in nobody's hands."""

    async def work() -> int:
        async with _opened(directory) as spool:
            return await spool.purge(time.time() - older_than.total_seconds(), set_aside_only=set_aside)

    number = asyncio.run(work())
    typer.echo(_json({"purged": number}) if json else f"purged {number} records")


@dead_letters_app.command("ls")
def dead_letters_ls(
    *, limit: Limit = 100, schema: Schema = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """List what the database refused, oldest first, with the reason."""

    async def work() -> list[dict[str, Any]]:
        async with _engines(database_url, schema) as engines:
            letters = await DeadLetters(engines).listing(limit)
        return [
            # the first line alone: the DETAIL below it may quote the row
            _row(letter, letter.created_at.timestamp()) | {"error": letter.error.splitlines()[0]}
            for letter in letters
        ]

    columns = ("id", "request_id", "created_by", "age", "size", "sqlstate", "error")
    _print(asyncio.run(work()), columns, json=json)


@dead_letters_app.command("show")
def dead_letters_show(
    letter: uuid.UUID,
    *,
    bodies: Bodies = False,
    schema: Schema = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Print the record in one letter, with the key's fingerprint and cut bodies."""

    async def work() -> CompletedRequest | None:
        async with _engines(database_url, schema) as engines:
            return await DeadLetters(engines).show(letter)

    _print_record(asyncio.run(work()), f"letter {letter}", bodies=bodies, json=json)


@dead_letters_app.command("replay")
def dead_letters_replay(
    letter: Annotated[uuid.UUID | None, typer.Argument(help="One letter; without it, all.")] = None,
    *,
    schema: Schema = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Store refused records again, now that the cause is mended. What is refused still stays. Safe to repeat."""

    async def work() -> tuple[int, int]:
        async with _engines(database_url, schema) as engines:
            return await DeadLetters(engines).replay(letter)

    stored, refused = asyncio.run(work())
    answer = {"stored": stored, "refused": refused}
    typer.echo(_json(answer) if json else f"stored {stored} records, {refused} still refused")
    if refused:
        raise typer.Exit(1)


@dead_letters_app.command("purge")
def dead_letters_purge(
    *, older_than: OlderThan, schema: Schema = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Forget letters, for good, that are older."""

    async def work() -> int:
        async with _engines(database_url, schema) as engines:
            return await DeadLetters(engines).purge(datetime.now(UTC) - older_than)

    number = asyncio.run(work())
    typer.echo(_json({"purged": number}) if json else f"purged {number} letters")


def _engines(database_url: str | None, schema: str | None) -> DbEngines:
    if not database_url:
        msg = f"no database given: pass --database-url, or set {URL_VARIABLE}"
        raise RwriterError(msg)
    return DbEngines.from_url(database_url, schema=schema)


@asynccontextmanager
async def _opened(directory: Path) -> AsyncIterator[Spool]:
    spool = Spool(directory)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.aclose()


async def _replayed(directory: Path, deadline: float) -> int:
    """Wait until nothing is left for this process to replay. How much is left to others, or at the deadline."""
    async with _opened(directory) as spool:
        while True:
            left = await spool.count()
            if not left or time.monotonic() > deadline:
                return left
            await asyncio.sleep(REPLAY_POLL)


def _row(item: msgspec.Struct, since: float) -> dict[str, Any]:
    return {**msgspec.to_builtins(item), "age": round(time.time() - since)}


def _print(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, json: bool) -> None:
    if json:
        typer.echo(_json([{name: row[name] for name in columns} for row in rows]))
        return
    table = [[str("" if row[name] is None else row[name]) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in [list(columns), *table]) for index in range(len(columns))]
    for line in [[name.upper() for name in columns], *table]:
        typer.echo(_line(line, widths))


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _print_record(record: CompletedRequest | None, what: str, *, bodies: bool, json: bool) -> None:
    if record is None:
        msg = f"there is no {what}"
        raise RwriterError(msg)
    shown: dict[str, Any] = msgspec.to_builtins(record)
    if not bodies:
        for name in ("request_body", "response_body"):
            shown[name] = shown[name] if len(shown[name]) <= CUT else shown[name][:CUT] + "…"
    if json:
        typer.echo(_json(shown))
        return
    for name, value in shown.items():
        typer.echo(f"{name:14} {value}")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()

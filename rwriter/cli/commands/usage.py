"""``rwriter usage`` and ``rwriter stats``: who asked for how much, and where the tables, a spool and letters stand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter.cli import _options as options
from rwriter.cli._output import print_rows, to_json
from rwriter.engines import schema_of
from rwriter.spool import Spool
from rwriter.store import RequestStore, UsageRow, table_sizes

GROUPS: Final = ("day", "hour", "model", "created_by", "status", "service_tier")
_NUMBERS: Final = tuple(field.name for field in msgspec.structs.fields(UsageRow) if field.name not in GROUPS)


def _groups(given: str) -> tuple[str, ...]:
    names = tuple(filter(None, given.split(",")))
    for name in names:
        if name not in GROUPS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(GROUPS)}")
    return names


@click.command("usage")
@click.option(
    "--by", type=_groups, default="day,model", metavar="NAMES", help=f"Any of {', '.join(GROUPS)}, by commas."
)
@options.since("7d")
@options.until
@options.owner
@click.option("--sort", type=click.Choice(_NUMBERS), help="The largest of these first.")
@options.limit
@options.schema
@options.database_url
@options.json
def usage(  # noqa: PLR0913 -- a parameter for each option
    *,
    by: tuple[str, ...],
    since: datetime,
    until: datetime | None,
    owner: str | None,
    sort: str | None,
    limit: int,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """Sum up requests, failures, tokens and times.

    Examples: rwriter usage --by model --since 7d; rwriter usage --by created_by --sort output_tokens --limit 10
    """

    async def work() -> list[UsageRow]:
        async with options.engines_for(database_url, schema) as engines:
            end = until or datetime.now(UTC)
            return await RequestStore(engines).usage(created_by=owner, since=since, until=end, by=by)

    rows = [msgspec.to_builtins(row) for row in asyncio.run(work())]
    if sort is not None:
        rows.sort(key=lambda row: row[sort] or 0, reverse=True)
    print_rows(rows[:limit], (*by, *_NUMBERS), json=json)


# each through an index: the states of a window's rows, those in flight, the letters
_STATES: Final = """
    SELECT state, count(*) AS rows FROM {requests}
    WHERE created_by <> '' AND created_at >= :since GROUP BY state ORDER BY state
"""
_ACTIVE: Final = """
    SELECT count(*) AS rows, min(coalesce(started_at, created_at)) AS oldest FROM {requests}
    WHERE created_by IS NOT NULL AND state IN ('processing', 'claimed', 'pending')
"""
_LETTERS: Final = "SELECT count(*) AS rows, min(created_at) AS oldest FROM {letters}"


@click.command("stats")
@options.since("1d")
@options.spool_folder
@options.schema
@options.database_url
@options.json
def stats(*, since: datetime, spool: Path | None, schema: str | None, database_url: str | None, json: bool) -> None:
    """Show requests by state, what is stuck, dead letters, sizes, and a spool.

    Rows of the tables are the server's estimate. Example: rwriter stats --since 1h --spool /var/spool/gateway
    """

    async def work() -> dict[str, Any]:
        async with options.engines_for(database_url, schema) as engines:
            found = await _standing(engines.read, since)
        return found | ({} if spool is None else {"spool": await _spooled(spool)})

    found = asyncio.run(work())
    if json:
        click.echo(to_json(found))
        return
    lines = [{"what": name, "value": value} for part, values in found.items() for name, value in _flat(part, values)]
    print_rows(lines, ("what", "value"), json=False)


async def _standing(engine: AsyncEngine, since: datetime) -> dict[str, Any]:
    quote, schema = engine.dialect.identifier_preparer.quote_identifier, schema_of(engine)
    prefix = "" if schema is None else f"{quote(schema)}."
    tables = {"requests": f"{prefix}requests", "letters": f"{prefix}dead_letters"}
    async with engine.connect() as connection:

        async def ask(statement: str, **parameters: Any) -> Sequence[Any]:
            query = text(statement.format(**tables))
            return (await connection.execute(query, parameters)).mappings().all()

        states = {row["state"]: row["rows"] for row in await ask(_STATES, since=since)}
        (active,), (letters,) = await ask(_ACTIVE), await ask(_LETTERS)
        sizes = [msgspec.to_builtins(size) for size in await table_sizes(connection)]
    return {
        "since": since,
        "states": states,
        "in_flight": _with_age(active),
        "dead_letters": _with_age(letters),
        "tables": {size.pop("table"): size for size in sizes},
    }


def _with_age(row: Any) -> dict[str, Any]:
    oldest: datetime | None = row["oldest"]
    return {"rows": row["rows"], "oldest_age": None if oldest is None else round(time.time() - oldest.timestamp())}


async def _spooled(folder: Path) -> dict[str, Any]:
    spool = Spool(folder)
    await spool.open(create=False)
    try:
        found = await spool.standing()
        age = None if found.oldest_at is None else round(found.oldest_age)
        size = await asyncio.to_thread(_bytes_in, folder)
        return {"rows": found.records, "set_aside": found.set_aside, "oldest_age": age, "bytes": size}
    finally:
        await spool.aclose()


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value.isoformat(timespec="seconds") if isinstance(value, datetime) else value)]
    return [pair for inner, each in value.items() for pair in _flat(f"{name}.{inner}", each)]

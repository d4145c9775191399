"""``rwriter ls``, ``show``, ``tail`` and ``reap``: requests looked at, and those failed whose process died."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import msgspec

from rwriter._values.escape import escape
from rwriter.cli import _options as options
from rwriter.cli._output import print_fields, print_rows, to_json
from rwriter.errors import RwriterError
from rwriter.schema import State
from rwriter.store import RequestDetail, RequestFilter, RequestStore, RequestSummary

_COLUMNS: Final = (
    *("created_at", "id", "status", "response_status", "model", "created_by", "duration_ms"),
    *("input_tokens", "output_tokens", "path"),
)
_WIDTHS: Final = {"created_at": 24, "id": 36, "status": 10, "response_status": 3, "duration_ms": 9}
_MOST: Final = 1_000


def _request_id(given: str) -> uuid.UUID:
    try:
        return uuid.UUID(given.removeprefix("resp_"))
    except ValueError:
        raise click.BadParameter(f"{given!r} is no request's id: write a UUID, or resp_ and one") from None


@click.command("ls")
@options.owner
@options.status
@options.models
@click.option(
    "--tier", "tiers", metavar="NAME", multiple=True, help="Only this service tier, none for without; may be repeated."
)
@click.option(
    "--fact",
    "facts",
    type=options.fact,
    metavar="NAME=VALUE",
    multiple=True,
    help="Only with this in their metadata; may be repeated.",
)
@options.since(None)
@options.until
@click.option("--active-first", is_flag=True, help="Requests in flight before all others.")
@click.option("--limit", type=click.IntRange(1, _MOST), default=50, help="Most lines.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Lines to leave out.")
@click.option("--cursor", metavar="TEXT", help="Where the page before ended.")
@options.schema
@options.database_url
@options.json
def ls(  # noqa: PLR0913 -- a parameter for each option
    *,
    owner: str | None,
    status: State | None,
    models: tuple[str, ...],
    tiers: tuple[str, ...],
    facts: tuple[tuple[str, Any], ...],
    since: datetime | None,
    until: datetime | None,
    active_first: bool,
    limit: int,
    offset: int,
    cursor: str | None,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """List requests, newest first.

    Examples: rwriter ls --status failed --since 1h; rwriter ls --owner tenant-7 --model gpt-5 --limit 10
    """
    try:
        filter_ = RequestFilter(
            created_by=owner, status=status, models=models or None,
            service_tiers=[None if tier == "none" else tier for tier in tiers] or None,
            metadata=dict(facts) or None, created_after=since, created_before=until, active_first=active_first,
            limit=limit, offset=offset, cursor=cursor,
        )  # fmt: skip
    except ValueError as exc:
        raise click.UsageError(str(exc)) from None

    async def work() -> tuple[list[RequestSummary], str | None]:
        async with options.engines_for(database_url, schema) as engines:
            return await RequestStore(engines).list_page(filter_)

    data, next_cursor = asyncio.run(work())
    rows = [_plain(row) for row in data]
    if json:
        click.echo(to_json({"data": rows, "next_cursor": next_cursor}))
        return
    print_rows(rows, _COLUMNS, json=False)
    if next_cursor is not None:
        click.echo(f"there are more: --cursor {next_cursor}", err=True)


@click.command("show")
@click.argument("request_id", metavar="ID", type=_request_id)
@options.bodies
@options.schema
@options.database_url
@options.json
def show(*, request_id: uuid.UUID, bodies: bool, schema: str | None, database_url: str | None, json: bool) -> None:
    """Print one request, its bodies cut.

    Example: rwriter show resp_019d0f3c-5a4e-7cc1-9d6a-0a4a3c2b1f00 --bodies
    """

    async def work() -> RequestDetail | None:
        async with options.engines_for(database_url, schema) as engines:
            return await RequestStore(engines).get_request(request_id, consistent=True)

    found = asyncio.run(work())
    if found is None:
        raise RwriterError(f"there is no request {request_id}")
    print_fields(msgspec.to_builtins(found), cut=() if bodies else ("body", "response_body", "error"), json=json)


@click.command("tail")
@options.owner
@options.status
@options.models
@click.option("--every", type=options.duration, default="2s", metavar="DURATION", help="Pause between two looks.")
@click.option(
    "--window", type=options.duration, default="15m", metavar="DURATION", help="The longest request that is waited for."
)
@click.option(
    "--for", "for_", type=options.duration, metavar="DURATION", help="End after this time; without it, with Ctrl-C."
)
@options.schema
@options.database_url
@options.json
def tail(  # noqa: PLR0913 -- a parameter for each option
    *,
    owner: str | None,
    status: State | None,
    models: tuple[str, ...],
    every: timedelta,
    window: timedelta,
    for_: timedelta | None,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """Print requests as they are stored, a line each, until Ctrl-C. Of more than 1,000 at a look, the newest.

    Example: rwriter tail --status failed --every 5s
    """

    def asked() -> RequestFilter:
        after = datetime.now(UTC) - window
        return RequestFilter(created_by=owner, status=status, models=models or None, created_after=after, limit=_MOST)

    async def work() -> None:
        end = None if for_ is None else time.monotonic() + for_.total_seconds()
        async with options.engines_for(database_url, schema) as engines:
            await _follow(RequestStore(engines), asked, every.total_seconds(), end, json=json)

    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        click.echo(err=True)


async def _follow(
    store: RequestStore, asked: Callable[[], RequestFilter], every: float, end: float | None, *, json: bool
) -> None:
    seen: dict[uuid.UUID, str] | None = None
    while end is None or time.monotonic() < end:
        page, _ = await store.list_page(asked())
        if seen is not None:
            # a request in flight comes once more when it has ended
            _print_lines([row for row in reversed(page) if seen.get(row.id) != row.status], json=json)
        seen = {row.id: row.status for row in page}
        await asyncio.sleep(every if end is None else max(0.0, min(every, end - time.monotonic())))


def _print_lines(rows: Iterable[RequestSummary], *, json: bool) -> None:
    for row in rows:
        plain = _plain(row)
        cells = [escape(str(_blank(plain[name]))).ljust(_WIDTHS.get(name, 0)) for name in _COLUMNS]
        click.echo(to_json(plain) if json else "  ".join(cells).rstrip())


def _plain(row: RequestSummary) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(row)
    return plain | {"created_at": row.created_at.astimezone(UTC).isoformat(timespec="milliseconds")}


def _blank(value: Any) -> Any:
    return "" if value is None else value


@click.command("reap")
@options.older_than
@options.schema
@options.database_url
@options.json
def reap(*, older_than: timedelta, schema: str | None, database_url: str | None, json: bool) -> None:
    """Fail realtime requests that have been processing for longer: their process died.

    Example: rwriter reap --older-than 1h
    """

    async def work() -> int:
        async with options.engines_for(database_url, schema) as engines:
            return await RequestStore(engines).fail_stale(older_than)

    number = asyncio.run(work())
    click.echo(to_json({"failed": number}) if json else f"failed {number} requests")

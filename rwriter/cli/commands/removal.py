"""``rwriter purge`` and ``rwriter erase``: rows out of the tables, by age or by owner."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from rwriter._values.escape import escape
from rwriter._values.texts import repair
from rwriter.cli import _options as options
from rwriter.cli._output import to_json
from rwriter.errors import RwriterError
from rwriter.spool import Spool
from rwriter.store import ARCHIVE_JOB, Erasure, Purge, RequestStore

_STEP: Final = timedelta(seconds=2)
"""Between two moves of the progress bar."""


@click.command("purge")
@options.older_than
@click.option("--bodies-only", is_flag=True, help="Empty bodies and errors, and keep the rows with their numbers.")
@click.option(
    "--budget", type=options.duration, metavar="DURATION", help="Stop after this time; the rest is for next time."
)
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many rows.")
@click.option(
    "--rest", type=click.FloatRange(min=0), default=1.0, help="Pause after each transaction, as a multiple of its time."
)
@click.option("--dry-run", is_flag=True, help="Count what would go, and change nothing.")
@options.yes
@options.schema
@options.database_url
@options.json
def purge(  # noqa: PLR0913 -- a parameter for each option
    *,
    older_than: timedelta,
    bodies_only: bool,
    budget: timedelta | None,
    limit: int | None,
    rest: float,
    dry_run: bool,
    yes: bool,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """Delete finished requests and dead letters that are older, the oldest first.

    On a terminal it asks first. Safe to repeat and to interrupt.

    Examples: rwriter purge --older-than 30d --bodies-only --budget 5m; rwriter purge --older-than 365d --dry-run
    """
    before = datetime.now(UTC) - older_than
    bounds = _Bounds(budget, limit)

    async def work() -> Purge:
        async with options.engines_for(database_url, schema) as engines:
            store = RequestStore(engines)
            if dry_run:
                return await store.purgeable(before, bodies_only=bodies_only)
            if not sys.stderr.isatty():
                return await store.purge(before, bodies_only=bodies_only, limit=limit, budget=budget, rest=rest)
            return await _watched(store, before, bounds, bodies_only=bodies_only, rest=rest)

    if not (dry_run or yes) and sys.stdin.isatty():
        what = "Empty the bodies of" if bodies_only else "Delete"
        click.confirm(f"{what} requests that began before {before:%Y-%m-%d %H:%M} UTC?", abort=True, err=True)
    _print_purge(asyncio.run(work()), bodies_only=bodies_only, dry_run=dry_run, json=json)


class _Bounds:
    """What is left of a purge's limit and budget."""

    def __init__(self, budget: timedelta | None, limit: int | None) -> None:
        self._end = None if budget is None else datetime.now(UTC) + budget
        self.limit = limit

    def step(self) -> timedelta:
        """Return how long the next step may take; not positive once the budget is used up."""
        return _STEP if self._end is None else min(_STEP, self._end - datetime.now(UTC))


async def _watched(store: RequestStore, before: datetime, bounds: _Bounds, *, bodies_only: bool, rest: float) -> Purge:
    """Purge step by step under a progress bar on stderr."""
    found = await store.purgeable(before, bodies_only=bodies_only)
    requests = letters = 0
    remaining = True
    with click.progressbar(length=found.requests + found.dead_letters, file=sys.stderr) as bar:
        while remaining and bounds.limit != 0 and (step := bounds.step()) > timedelta(0):
            done = await store.purge(before, bodies_only=bodies_only, limit=bounds.limit, budget=step, rest=rest)
            requests, letters, remaining = requests + done.requests, letters + done.dead_letters, done.remaining
            if bounds.limit is not None:
                bounds.limit -= done.requests + done.dead_letters
            bar.update(done.requests + done.dead_letters)
    return Purge(requests, letters, remaining)


def _print_purge(done: Purge, *, bodies_only: bool, dry_run: bool, json: bool) -> None:
    if json:
        click.echo(to_json(done))
        return
    verb = {
        (False, False): "deleted",
        (True, False): "emptied",
        (False, True): "would delete",
        (True, True): "would empty",
    }
    click.echo(f"{verb[bodies_only, dry_run]} {done.requests} requests, {done.dead_letters} dead letters")
    if done.remaining and not dry_run:
        click.echo("there may be more: run it again")


@click.command("erase")
@click.argument("owner")
@options.spool_folder
@click.option("--archive", metavar="TO", help="An archive, too: its folder or URL.")
@options.yes
@options.schema
@options.database_url
@options.json
def erase(  # noqa: PLR0913 -- a parameter for each option
    *,
    owner: str,
    spool: Path | None,
    archive: str | None,
    yes: bool,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """Delete everything of OWNER's, for good: requests, bodies and dead letters.

    What OWNER began up to now is never written again. With --spool a folder of this host forgets them at once; others
    drop them when they replay. With --archive the files that hold them are written anew, once for each archive. A
    service that runs forgets what it holds in memory through writer.erase.

    Examples: rwriter erase tenant-7 --yes; rwriter erase tenant-7 --archive /srv/archive --yes
    """

    async def work() -> tuple[Erasure, int, int]:
        async with options.engines_for(database_url, schema) as engines:
            # first: its mark keeps the owner's rows out of what is archived from now on
            erasure = await RequestStore(engines).erase(owner)
            archived = 0 if archive is None else await _erase_archived(RequestStore(engines), archive, owner)
        return erasure, 0 if spool is None else await _forget(spool, owner, erasure.erased_at), archived

    if not yes:
        click.confirm(f"Delete everything of {escape(owner)}'s for good?", abort=True, err=True)
    erasure, spooled, archived = asyncio.run(work())
    answer = {
        "requests": erasure.requests,
        "dead_letters": erasure.dead_letters,
        "spooled": spooled,
        "archived": archived,
        "erased_at": erasure.erased_at,
    }
    if json:
        click.echo(to_json(answer))
        return
    click.echo(
        f"erased {erasure.requests} requests, {erasure.dead_letters} dead letters, {spooled} spooled records, "
        f"{archived} archived requests; "
        f"what began up to {erasure.erased_at.isoformat()} is not written again"
    )


async def _erase_archived(store: RequestStore, location: str, owner: str) -> int:
    from rwriter.archive import ArchiveStore  # noqa: PLC0415 -- the other commands must not need what it imports

    async with store.turn(ARCHIVE_JOB) as is_mine:
        if not is_mine:
            raise RwriterError(
                f"{owner} is erased in the database, and not yet in the archive: `rwriter archive` is at work there. "
                "Run this again when it has ended"
            )
        with ArchiveStore(location) as archive:
            erasure = await archive.erase(owner)
            # what a run that was cut short left may hold the owner's rows
            await archive.remove_strays()
    return erasure.requests


async def _forget(folder: Path, owner: str, until: datetime) -> int:
    spool = Spool(folder)
    await spool.open(create=False)
    try:
        return await spool.forget(repair(owner).strip(), until)
    finally:
        await spool.aclose()

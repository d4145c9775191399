"""``rwriter archive``: closed partitions to Parquet, out of the database."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

import click

from rwriter.cli import _options as options
from rwriter.cli._output import print_rows

if TYPE_CHECKING:
    from rwriter.archive import Archived, Progress

_COLUMNS: Final = ("from", "to", "state", "rows", "left_out", "bytes", "reason")
_KEPT: Final = 1
"""The exit code where a partition stays in the database."""


@click.command("archive")
@click.argument("to")
@click.option(
    "--before",
    type=options.moment,
    metavar="WHEN",
    required=True,
    help="Partitions that end before: 90d (ago), 2026-03-04 or a time.",
)
@click.option("--cuts", type=click.IntRange(1, 4096), default=16, help="Files for each partition, by owner.")
@click.option("--dry-run", is_flag=True, help="List what would be archived, and change nothing.")
@options.schema
@options.database_url
@options.json
@click.pass_context
def archive(  # noqa: PLR0913 -- a parameter for each option
    ctx: click.Context,
    *,
    to: str,
    before: datetime,
    cuts: int,
    dry_run: bool,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """Move old partitions to Parquet in TO, a folder or s3://BUCKET/PREFIX, and drop them.

    Each is read back and compared before it is dropped. Writers go on. Safe to interrupt and to repeat: it goes on
    where it was. Exits with 1 if a partition was kept; the reason stands in its line. S3 takes its credentials from
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from a role.

    Examples: rwriter archive --before 90d /srv/archive --dry-run; rwriter archive --before 2026-09-01
    "s3://logs/rwriter?region=eu-central-1"
    """
    from rwriter.archive import archive_partitions  # noqa: PLC0415 -- the other commands must not need what it imports

    async def work() -> list[Archived]:
        async with options.engines_for(database_url, schema) as engines:
            with _Watch() as watch:
                return await archive_partitions(engines, before, to, cuts=cuts, dry_run=dry_run, on_progress=watch.hear)

    fates = asyncio.run(work())
    print_rows([_row(each) for each in fates], _COLUMNS, json=json)
    if any(each.state == "kept" for each in fates):
        ctx.exit(_KEPT)


class _Watch:
    """Shows the rows of the partition at work: as a bar on a terminal, as a line for each partition elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def hear(self, progress: Progress) -> None:
        """Take a step of the run."""
        if progress.step == "written" and sys.stderr.isatty():
            self._show(progress)
        elif progress.step in {"verified", "dropped", "kept"}:
            self._end()
            what = f"{progress.rows} requests {progress.step}" if progress.rows else progress.step
            click.echo(f"{progress.start:%Y-%m-%d} {what}", err=True)

    def _show(self, progress: Progress) -> None:
        if self._bar is None:
            label = f"{progress.start:%Y-%m-%d}"
            self._bar = click.progressbar(length=progress.total, label=label, file=sys.stderr).__enter__()
        self._bar.update(progress.rows - self._bar.pos)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _row(fate: Archived) -> dict[str, Any]:
    return {
        "from": f"{fate.start:%Y-%m-%dT%H:%MZ}",
        "to": f"{fate.end:%Y-%m-%dT%H:%MZ}",
        "state": fate.state,
        "rows": fate.rows,
        "left_out": fate.left_out,
        "bytes": fate.bytes,
        "reason": fate.reason,
    }

"""``rwriter audit``: is anything missing, and was anything changed?"""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from rwriter._values.escape import escape
from rwriter.cli import _options as options
from rwriter.cli._output import to_json
from rwriter.ledger import Audit, Finding, LedgerHead, heads_in
from rwriter.ledger import audit as audited

LONGEST = 24 * 3_600.0
"""Seconds that one statement of an audit may take: it joins every id of the ledger with every row."""

_VERDICTS = ("everything is explained", "not everything is explained", "it cannot be told")


@click.command("audit")
@options.since(None)
@click.option("--writer", type=click.UUID, metavar="ID", help="Only this writer's entries.")
@click.option("--bodies", is_flag=True, help="Compare the bodies, too.")
@click.option(
    "--head",
    "kept",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Heads kept elsewhere: a log of the service, or a file of --save-heads.",
)
@click.option(
    "--save-heads", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the heads to a file."
)
@options.schema
@options.database_url
@options.json
def audit(  # noqa: PLR0913 -- a parameter for each option
    *,
    since: datetime | None,
    writer: uuid.UUID | None,
    bodies: bool,
    kept: Path | None,
    save_heads: Path | None,
    schema: str | None,
    database_url: str | None,
    json: bool,
) -> None:
    """Compare the ledger with the rows.

    Exits with 0 if everything is explained, 1 with findings, 2 where it cannot be told: no ledger, or another secret.
    The secret is RWRITER_LEDGER_SECRET. Example: rwriter audit --since 7d --head /mnt/elsewhere/heads
    """
    heads = [] if kept is None else heads_in(kept.read_text(encoding="utf-8", errors="replace").splitlines())
    report = asyncio.run(_audited(database_url, schema, since=since, writer=writer, bodies=bodies, heads=heads))
    if json:
        click.echo(to_json({**msgspec.to_builtins(report), "exit_code": report.exit_code}))
    else:
        _print(report)
    if save_heads is not None:
        save_heads.write_text("".join(f"{head}\n" for head in report.heads), encoding="utf-8")
    raise click.exceptions.Exit(report.exit_code)


async def _audited(database_url: str | None, schema: str | None, *, heads: list[LedgerHead], **asked: Any) -> Audit:
    async with options.engines_for(database_url, schema, statement_timeout=LONGEST) as engines:
        if not sys.stderr.isatty():
            return await audited(engines, heads=heads, **asked)
        with click.progressbar(length=1, label="auditing", file=sys.stderr) as bar:

            def move(done: int, of_all: int) -> None:
                bar.length = max(of_all, 1)
                bar.update(done - bar.pos)

            return await audited(engines, heads=heads, on_progress=move, **asked)


def _print(report: Audit) -> None:
    click.echo(
        f"{report.entries} entries of {report.writers} writers ({report.running} open) and {report.records} records "
        f"against {report.rows} rows; {report.removed} removed since, {report.older} older than the ledger"
    )
    for finding in report.findings:
        click.echo(_line(finding))
    click.echo(_VERDICTS[report.exit_code] if report.entries else f"there is no ledger: {_VERDICTS[2]}")


def _line(finding: Finding) -> str:
    return escape(str(finding))

"""``rwriter doctor``: looks at the database, the key pepper and the spool's folder, and says what is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import click

from rwriter._values.escape import escape
from rwriter.cli import _options as options
from rwriter.cli._doctor import Finding, examine, unreachable
from rwriter.cli._output import to_json

_BAD: Final = {False: ("fail",), True: ("fail", "warn")}


@click.command("doctor")
@click.option(
    "--spool", type=click.Path(path_type=Path), metavar="DIRECTORY", help="The spool's folder, to look at, too."
)
@click.option("--strict", is_flag=True, help="Exit with 1 for a warning, too.")
@options.schema
@options.database_url
@options.json
def doctor(*, spool: Path | None, strict: bool, schema: str | None, database_url: str | None, json: bool) -> None:
    """Look at database, pepper and spool.

    A line each: ok, warn or fail; exits with 1 if one is fail. Changes nothing.

    Example: rwriter doctor --spool /var/spool/gateway --json
    """

    async def work() -> list[Finding]:
        try:
            engines = options.engines_for(database_url, schema)
        except Exception as exc:  # noqa: BLE001 -- whatever it is, it is what the operator asks for
            return await unreachable(exc, spool)
        async with engines:
            return await examine(engines, schema, spool)

    findings = asyncio.run(work())
    if json:
        click.echo(to_json(findings))
    else:
        for finding in findings:
            click.echo(f"{finding.status:4}  {finding.check}: {escape(finding.message)}")
    if any(finding.status in _BAD[strict] for finding in findings):
        raise click.exceptions.Exit(1)

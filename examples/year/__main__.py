"""``python -m examples.year [--weeks 52] [--per-week 500]``: a year on plain tables, then one on partitioned tables."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import text

from examples.year.check import Line
from examples.year.story import Year
from examples.year.traffic import Calendar
from rwriter import DbEngines
from rwriter.testing import THROWAWAY, PostgresServer

KINDS: Final = ("plain", "partitioned")


def main(arguments: Sequence[str] | None = None) -> int:
    """Live through the year on each kind of tables and print what adds up. Returns 1 if something does not."""
    parser = argparse.ArgumentParser(prog="python -m examples.year")
    parser.add_argument("--weeks", type=int, default=52, help="weeks of the year, at least 8")
    parser.add_argument("--per-week", type=int, default=500, help="requests of a week")
    parser.add_argument("--tables", choices=KINDS, help="one kind of tables alone")
    given = parser.parse_args(arguments)
    if given.weeks < 8 or given.per_week < 1:  # noqa: PLR2004 -- an eighth of the year is a week
        parser.error("a year has at least 8 weeks, and a week at least one request")
    adds_up = True
    with PostgresServer(settings=THROWAWAY) as server, tempfile.TemporaryDirectory() as folder:
        for kind in (given.tables,) if given.tables else KINDS:
            began = time.monotonic()
            found = asyncio.run(_live(server, kind, Path(folder) / kind, given.weeks, given.per_week))
            print(f"{kind} tables, {given.weeks} weeks of {given.per_week} requests, {time.monotonic() - began:.0f} s")
            adds_up = printed(found) and adds_up
    return 0 if adds_up else 1


async def _live(server: PostgresServer, kind: str, spool: Path, weeks: int, per_week: int) -> list[Line]:
    async with DbEngines.from_url(server.url()) as engines:
        autocommit = engines.write.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {kind}_year"))
    calendar = Calendar.around(datetime.now(UTC), weeks, per_week)
    return await Year(server, server.url(f"{kind}_year"), spool, calendar, weekly=kind == "partitioned").run()


def printed(found: Sequence[Line]) -> bool:
    """Print a line for each thing, with what was expected where it does not add up. Returns True if all do."""
    for line in found:
        print(f"  {'ok  ' if line.adds_up else 'FAIL'}  {line.what:46}  {_short(line.found)}")
        if not line.adds_up:
            print(f"        {'expected':46}  {_short(line.expected)}")
    return all(line.adds_up for line in found)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return f"{sum(numbers[0] for numbers in value.values()):,} requests, {len(value)} models"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())

"""Time the ten questions of the docs, each as a command of its own, on a million requests of the last thirty days."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.database import SCHEMA, Database
from bench.tables import LARGE_OWNER, fill
from rwriter import Spool

ROUNDS: Final = 5
ROWS: Final = 1_000_000
PAGE: Final = Path(__file__).parents[1] / "docs/how-to/questions.md"
_ALL: Final = "rwriter usage --by day,model --since 31d"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Take the size of a run."""
    parser.add_argument("--rows", type=int, help="in the tables (default 1,000,000, with --quick 50,000)")


def questions() -> list[tuple[str, list[str]]]:
    """Return each question of the page with its command."""
    lines = PAGE.read_text(encoding="utf-8").split("<!-- ten questions -->")[1].split("```")[1].splitlines()[1:]
    pairs = [line.split("#", 1) for line in lines]
    return [(question.strip(), shlex.split(command)) for command, question in pairs]


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fill the tables, then run each command as often as there are rounds."""
    rows = options.rows or (ROWS // 20 if options.quick else ROWS)
    database = Database(url)
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(folder)
        await spool.open()
        await spool.aclose()
        async with database.tables():
            await fill(database, rows, since="now() - interval '30 days'")
            asked = [*questions(), ("all of it, by day and model", shlex.split(_ALL))]
            environment = os.environ | {"RWRITER_DATABASE_URL": url, "RWRITER_SCHEMA": SCHEMA}
            places = {"/var/spool/gateway": folder, "tenant-7": LARGE_OWNER}
            postmaster = await _postmaster(database)
            found: dict[str, list[dict[str, float]]] = {}
            for question, command in asked:
                program = [places.get(each, each) for each in command]
                found[question] = [await _timed(program, environment, postmaster) for _ in range(options.rounds)]
            return {"rows": rows, "load": os.getloadavg()[0], "seconds": found, "settings": await database.settings()}


async def _postmaster(database: Database) -> int:
    async with database.control() as connection:
        pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
    return int(_fields(pid)[1])


def _fields(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state on: its name before that may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _served(postmaster: int) -> float:
    """Return the processor seconds of all sessions that have ended: a command's own is among them when it has."""
    user, system = _fields(postmaster)[13:15]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def _timed(command: list[str], environment: Mapping[str, str], postmaster: int) -> dict[str, float]:
    """Run a command; returns its seconds by the clock, of its own processor time, and of its server process's."""
    program = [sys.executable, "-m", "rwriter.cli", *command[1:]]
    before, served, started = os.times(), _served(postmaster), time.monotonic()
    running = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE, env=environment)
    printed, _ = await running.communicate()
    elapsed, after = time.monotonic() - started, os.times()
    if running.returncode or not printed:
        msg = f"{shlex.join(command)} ended with {running.returncode}"
        raise RuntimeError(msg)
    children = after.children_user + after.children_system - before.children_user - before.children_system
    return {"elapsed": elapsed, "processor": children, "served": _served(postmaster) - served}


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the table of the docs."""
    table = [
        f"{result['rows']:,} requests, load {result['load']:.0f}; medians in seconds",
        "| question | elapsed | CPU of the command | CPU of the server |",
    ]
    for question, runs in result["seconds"].items():
        cells = (f"{statistics.median(run[name] for run in runs):.2f}" for name in ("elapsed", "processor", "served"))
        table.append(f"| {question} | {' | '.join(cells)} |")
    return table

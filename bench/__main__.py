"""``python -m bench COMMAND``: every measurement, behind one parser and one server."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench import report
from bench.database import SCHEMA, server

COMMANDS: Final = {
    "throughput": "records a second beside seven peers, with one thing varied at a time",
    "against": "this checkout's writer in turns with another's: rate, processor time and WAL a record",
    "request-path": "what a handler and its event loop pay for a record",
    "read-path": "how long lookups and pages take among two million rows",
    "asgi": "the capture middleware off, on, journaling, and with the database down",
    "stalls": "the event loop, processor and memory under hostile inputs, bare and behind the library",
    "memory": "what a full buffer takes in memory",
    "durability": "a journal under each fsync policy, beside memory",
    "ledger": "what a ledger costs: rate, processor time, WAL and disk a record",
    "replay": "live traffic beside the replay of a large spool",
    "upgrade": "how long writers wait beside the upgrade of a million rows",
    "page": "write the tables of a run of `throughput` into docs/performance.md",
    "archive": "what a week takes as Parquet, how fast it moves there and is read there",
    "scale": "what a record costs, and what a fleet needs at each rate",
    "questions": "the ten questions of the docs, each as a command, on a million requests",
    "rust": "the original, in Rust, in turns with this writer (built by cargo)",
    "partitions": "what partitions cost where records are stored, and save where a week of them goes",
}
"""Each is a module of the same name with ``measure`` and ``lines``, and where it wants them ``add_options`` and
``ROUNDS``. It is imported when it is chosen."""


def main(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` begin with; returns the process's exit status."""
    if not arguments or arguments[0] not in COMMANDS:
        print("python -m bench COMMAND [options]; --help after a command lists its options\n")
        print(*(f"  {name:<14} {does}" for name, does in COMMANDS.items()), sep="\n")
        return 2 if arguments and arguments[0] not in {"-h", "--help"} else 0
    name, *rest = arguments
    command = importlib.import_module(f"bench.{name.replace('-', '_')}")
    if name == "page":
        command.run(rest)
        return 0
    return _measure(command, _options(name, command, rest))


def _options(name: str, command: Any, arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=COMMANDS[name])
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--database-url", help=f"a server of your own; schemas {SCHEMA} and {SCHEMA}_* are replaced")
    parser.add_argument("--bin-dir", type=Path, help="start the PostgreSQL with these programs")
    parser.add_argument("--json", type=Path, default=report.RESULTS / f"{name}.json", help="(default %(default)s)")
    if rounds := getattr(command, "ROUNDS", None):
        parser.add_argument("--rounds", type=int, help=f"(default {rounds}, with --quick 2)")
    if hasattr(command, "add_options"):
        command.add_options(parser)
    options = parser.parse_args(arguments)
    if rounds and options.rounds is None:
        options.rounds = 2 if options.quick else rounds
    return options


def _measure(command: Any, options: argparse.Namespace) -> int:
    started = time.monotonic()
    with server(options.database_url, options.bin_dir) as url:
        result = asyncio.run(command.measure(url, options))
    print(*command.lines(result), sep="\n")
    report.write(options.json, {"machine": report.machine()} | result)
    print(f"\n{time.monotonic() - started:.0f} s; {options.json} holds every figure")
    return int(result.get("missed", False))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

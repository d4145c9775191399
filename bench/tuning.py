"""``python -m bench.tuning``: ideas kept and refused, each beside what the library does, as ratios within a round."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import report, tuning_codecs, tuning_rounds
from bench.database import SCHEMA, Database, server
from bench.tuning_ideas import IDEAS
from bench.tuning_rounds import Comparison

CODECS: Final = "arrays"
"""The idea of which the types of the arrays are a part."""


def main() -> None:
    """Parse the options, run the ideas, print, and write the JSON."""
    options = _options()
    with server(options.database_url, options.bin_dir) as url:
        result = asyncio.run(_measure(url, options))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tuning", description="What each idea brings, or would.")
    parser.add_argument("--only", nargs="+", choices=IDEAS, metavar="NAME", help=f"of {', '.join(IDEAS)}")
    parser.add_argument("--quick", action="store_true", help="to see that it runs: the figures mean nothing")
    parser.add_argument("--rounds", type=int, help="after the warm-up (default 9)")
    parser.add_argument("--records", type=int, help="in a full turn (default 4,000)")
    parser.add_argument(
        "--database-url",
        help=f"a server of your own (default: an embedded one); schemas {SCHEMA} and {SCHEMA}_* are replaced in it",
    )
    parser.add_argument("--bin-dir", type=Path, help="start the PostgreSQL whose programs are here")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 9)
    options.records = options.records or (400 if options.quick else 4_000)
    return options


async def _measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    database = Database(url)
    async with database.tables():
        settings, has_lz4 = await database.settings(), await _has_lz4(database)
        for name in options.only or IDEAS:
            found[name] = []
            for comparison in IDEAS[name]():
                if comparison.needs_lz4 and not has_lz4:
                    print(f"{name}: left out, this server has no lz4 (--bin-dir, or --database-url, of one that has)")
                    continue
                found[name].append(await _compared(comparison, url, options))
            if name == CODECS:
                found[name] += await _codecs(database, options)
    run = {"rounds": options.rounds, "records": options.records, "quick": options.quick}
    return {"machine": report.machine(), "server": settings, "run": run, "ideas": found}


async def _compared(comparison: Comparison, url: str, options: argparse.Namespace) -> dict[str, Any]:
    rounds = await tuning_rounds.measure(comparison, url, rounds=options.rounds, count=options.records)
    return _told(comparison.title, list(comparison.variants), rounds)


async def _codecs(database: Database, options: argparse.Namespace) -> list[dict[str, Any]]:
    rounds = await tuning_codecs.measure(database, rounds=options.rounds, times=options.records // 8)
    groups = [[name for name in rounds[0] if name.split()[0] == group] for group in tuning_codecs.GROUPS]
    return [_told(f"An element of an array: {labels[0].split()[0]}", labels, rounds) for labels in groups]


def _told(title: str, labels: Sequence[str], rounds: Sequence[Mapping[str, tuning_rounds.Turn]]) -> dict[str, Any]:
    found = tuning_rounds.as_json(title, labels, rounds)
    print(*tuning_rounds.lines(found), sep="\n", flush=True)
    return found


async def _has_lz4(database: Database) -> bool:
    async with database.control() as connection:
        asked = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
        return bool((await connection.exec_driver_sql(asked)).scalar_one())


if __name__ == "__main__":
    main()

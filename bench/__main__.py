"""``python -m bench``: records a second from ``send`` to commit, beside its peers, with one thing varied at a time.

Peers take turns, in another order each round, on the same bodies, tables and connection settings; what counts is
their ratio within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench import against, axes, goals, report
from bench.axes import Axis
from bench.database import server
from bench.peers import missing
from bench.turns import Grounds, measure

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"

PEER_ROUNDS: Final = 2
"""Rounds beside peers for each round of an axis: those figures are the ones that are quoted."""


def main() -> None:
    """Parse the options, run, print, and write the JSON."""
    if sys.argv[1:2] == ["against"]:
        _run_against(sys.argv[2:])
        return
    options = _options()
    started = time.monotonic()
    with server(options.database_url) as url:
        result = asyncio.run(_measure(url, options))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(*report.goal_lines(result["goals"]), sep="\n")
    print(
        f"\n{time.monotonic() - started:.0f} s; {options.json} holds every figure. `python -m bench.plots` draws them."
    )


def _run_against(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench against", description=against.__doc__)
    against.add_options(parser)
    parser.add_argument("--database-url", help="a server of your own, on which databases rwriter_bench_* are replaced")
    parser.add_argument("--bin-dir", type=Path, help="start the PostgreSQL whose programs are here")
    parser.add_argument("--rounds", type=int, help="(default 8)")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    with server(options.database_url, options.bin_dir) as url:
        result = asyncio.run(against.measure(url, options))
    print(*against.lines(result), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": report.machine(), **result}, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Throughput beside its peers, in one run.")
    parser.add_argument(
        "--database-url",
        help="a server of your own (default: an embedded one); schemas rwriter_bench and rwriter_bench_* are replaced",
    )
    parser.add_argument("--rounds", type=int, help="measured rounds of an axis after the warm-up (default 6)")
    parser.add_argument("--records", type=int, help="records in a turn (default 4,000; fewer for slow peers)")
    parser.add_argument("--axes", nargs="+", metavar="AXIS", help=f"of {', '.join(one.name for one in axes.FULL)}")
    parser.add_argument("--quick", action="store_true", help="a minute: the peers and a few points, short turns")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go (default %(default)s)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.records = options.records or (2_000 if options.quick else 4_000)
    return options


def _chosen(options: argparse.Namespace) -> Sequence[Axis]:
    offered = axes.QUICK if options.quick else axes.FULL
    return [axis for axis in offered if options.axes is None or axis.name in options.axes]


async def _measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    for name in missing():
        print(f"{name}: left out, its driver is not installed (pip install 'rwriter[bench]')")
    found: dict[str, Any] = {}
    grounds = Grounds(url, axes.FILL)
    async with grounds.open() as database:
        settings = await database.settings()
        for axis in _chosen(options):
            found[axis.name] = await _axis(axis, grounds, options)
            print(*report.axis_lines(found[axis.name]), sep="\n", flush=True)
    run = {"rounds": options.rounds, "records": options.records, "filled_rows": axes.FILL, "quick": options.quick}
    facts = {"machine": report.machine(), "server": settings, "run": run}
    return {**facts, "axes": found, "goals": goals.verdicts(found)}


async def _axis(axis: Axis, grounds: Grounds, options: argparse.Namespace) -> dict[str, Any]:
    rounds = options.rounds * (PEER_ROUNDS if axis is axes.PEERS else 1)
    return report.axis_as_json(axis, await measure(axis, grounds, rounds=rounds, count=options.records))


if __name__ == "__main__":
    main()

"""Write the tables of a run of ``bench throughput`` into docs/performance.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.report import RESULTS, ratios, spread

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN: Final = "<!-- {part}: written by `python -m bench page`, do not edit -->"
END: Final = "<!-- {part}: end -->"

FIRST: Final = {"flushes": ("1", "one flush"), "rows": ("v7, empty", "v7, empty"), "paths": ("insert", "inserting")}
"""Axes whose points are compared with one another too: the point they are compared with, and its name."""


def run(arguments: Sequence[str]) -> None:
    """Write the page's tables and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench page", description=__doc__)
    parser.add_argument("json", nargs="?", type=Path, default=RESULTS / "throughput.json", help="(default %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="(default %(default)s)")
    parser.add_argument("--part", default="throughput", help="the page's part, of another server's run for instance")
    options = parser.parse_args(arguments)
    text = _markdown(json.loads(options.json.read_text()))
    _insert(options.page, text, options.part)
    print(text)


# -- the page


def _insert(page: Path, text: str, part: str) -> None:
    """Put ``text`` between ``part``'s marks in ``page``; at its end where there are none, in a new page if need be."""
    begin, end, newline = BEGIN.format(part=part), END.format(part=part), "\n"
    old = page.read_text() if page.is_file() else "# Performance\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before.rstrip()}\n\n{begin}\n\n{text}\n\n{end}{after or newline}")


def _markdown(result: Mapping[str, Any]) -> str:
    sections = [f"### {axis['title']}\n\n{_axis_table(name, axis)}" for name, axis in result["axes"].items()]
    return "\n\n".join([_conditions(result), _goals(result["goals"]), *sections])


def _conditions(result: Mapping[str, Any]) -> str:
    machine, server, run = result["machine"], result["server"], result["run"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    said = {"server_version", "compression"}
    settings = ", ".join(f"{name} {value}" for name, value in server.items() if name not in said)
    return (
        f"PostgreSQL {server['server_version']} ({settings}; bodies compressed with {server['compression']})"
        f" and its client on one machine: {machine['cpus']} CPUs, {machine['cpu']}; {machine['platform']}, Python"
        f" {machine['python']}, {versions}. {run['rounds']} rounds an axis, twice as many beside peers, of up to"
        f" {run['records']:,} records a turn; medians, and the least and most of the rounds in brackets. Where nothing"
        " else is said: batches of 100, bodies of 2 + 4 kB, two flushes in flight, empty tables, new rows, v7 ids."
    )


def _goals(verdicts: Mapping[str, Any]) -> str:
    met = {True: "met", False: "missed", None: "not measured"}
    rows = [
        (name, f"{'≤' if one['below'] else '≥'} {one['goal']:g}", _bold(one["found"]), met[one["met"]])
        for name, one in verdicts.items()
    ]
    return "### Goals\n\n" + _table(("ratio", "goal", "found", ""), rows)


def _axis_table(name: str, axis: Mapping[str, Any]) -> str:
    first, called = FIRST.get(name, ("", ""))
    between = [f"of {called}"] if first in axis["points"] else []
    over = sorted({figures["over"] for peers in axis["points"].values() for figures in peers.values()})
    head = ["at", "peer", f"of {' or '.join(over)}", *between, "records/s", "client CPU, µs a record", "WAL, bytes"]
    rows = [
        [
            label,
            peer,
            _bold(figures["ratio"]),
            *([_bold(_within_rounds(axis, (label, peer), (first, peer)))] if between else []),
            *(f"{figures[measure]['median']:,.0f}" for measure in ("rate", "cpu_us", "wal_bytes")),
        ]
        for label, peers in axis["points"].items()
        for peer, figures in peers.items()
    ]
    return _table(head, rows)


def _within_rounds(axis: Mapping[str, Any], at: tuple[str, str], over: tuple[str, str]) -> dict[str, Any]:
    """Return the ratio of two rates, each of a point and a peer, taken within a round."""
    return ratios(*(axis["points"][label][peer]["rate"]["rounds"] for label, peer in (at, over)))


def _bold(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "—"
    median, brackets = spread(found).split(" ", 1)
    return f"**{median}**" + (f" {brackets}" if found["min"] != found["max"] else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Write the tables of a run as Markdown into a page that somebody writes around them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_BEGIN: Final = "<!-- {part}: written by `python -m bench plots`, do not edit -->"
_END: Final = "<!-- {part}: end -->"

_PICTURES: Final = {
    "peers": ("peers", "cpu"),
    "batch": ("batch",),
    "bodies": ("bodies",),
    "flushes": ("flushes",),
    "paths": ("paths",),
    "rows": ("rows", "wal"),
}
_ALT: Final = {
    "peers": "Records a second of each peer as a part of COPY's",
    "cpu": "Processor time of the client a record, by peer",
    "batch": "Records a second by batch size, as a part of COPY's",
    "bodies": "Records a second by size of the bodies, as a part of COPY's",
    "flushes": "Records a second by flushes in flight, as a part of what one COPY does",
    "paths": "Records a second by path, as a part of three statements'",
    "rows": "Records a second on empty and filled tables, by kind of id",
    "wal": "WAL a record on empty and filled tables, by kind of id",
}
_FIRST: Final = {"flushes": ("1", "one flush"), "rows": ("v7, empty", "v7, empty"), "paths": ("insert", "inserting")}
"""Axes whose points are compared with one another too: the point they are compared with, and its name."""
_TELLING_WAL: Final = {"peers", "paths", "rows"}
"""Elsewhere the bytes of WAL follow from the peer and the bodies. The JSON has them all."""


def insert(page: Path, text: str, part: str) -> None:
    """Put ``text`` between ``part``'s marks in ``page``; at its end where there are none, in a new page if need be."""
    begin, end, newline = _BEGIN.format(part=part), _END.format(part=part), "\n"
    old = page.read_text() if page.is_file() else "# Performance\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before.rstrip()}\n\n{begin}\n\n{text}\n\n{end}{after or newline}")


def markdown(result: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    """Return machine and goals, then a section for each axis. ``drawn``: each picture's place, seen from the page."""
    parts = [_conditions(result), _goals(result["goals"])]
    parts += [_section(name, axis, drawn) for name, axis in result["axes"].items()]
    return "\n\n".join(parts)


def within_rounds(axis: Mapping[str, Any], at: tuple[str, str], over: tuple[str, str]) -> tuple[float, float, float]:
    """Return median, least and most of the ratio of two rates, each of a point and a peer, taken within a round."""
    above, under = (axis["points"][label][peer]["rate"]["rounds"] for label, peer in (at, over))
    ratios = [one / other for one, other in zip(above, under, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def _conditions(result: Mapping[str, Any]) -> str:
    machine, server, run = result["machine"], result["server"], result["run"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    settings = ", ".join(f"{name} {value}" for name, value in server.items() if name != "server_version")
    compressed = {
        figures["compression"]
        for axis in result["axes"].values()
        for peers in axis["points"].values()
        for peer, figures in peers.items()
        if peer == "writer" and figures["compression"]
    }
    compression = " or ".join(sorted(compressed)) or "nothing"
    return (
        f"PostgreSQL {server['server_version']} ({settings}; bodies compressed with {compression})"
        f" and its client on one machine: {machine['cpus']} CPUs, {machine['cpu']}; {machine['platform']}, Python"
        f" {machine['python']}, {versions}. {run['rounds']} rounds an axis, twice as many beside peers, of up to"
        f" {run['records']:,} records a turn; medians, and the least and most of the rounds in brackets. Where nothing"
        " else is said: batches of 100, bodies of 2 + 4 kB, two flushes in flight, empty tables, new rows, v7 ids."
    )


def _goals(verdicts: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            f"{'≤' if one['below'] else '≥'} {one['goal']:g}",
            f"**{one['found']:.2f}** [{one['least']:.2f} .. {one['most']:.2f}]" if one["met"] is not None else "—",
            {True: "met", False: "missed", None: "not measured"}[one["met"]],
        )
        for name, one in verdicts.items()
    ]
    return "### Goals\n\n" + _table(("ratio", "goal", "found", ""), rows)


def _section(name: str, axis: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    pictures = [f"![{_ALT[one]}]({drawn[one]})" for one in _PICTURES[name] if one in drawn]
    return "\n\n".join([f"### {axis['title']}", *pictures, _axis_table(name, axis)])


def _axis_table(name: str, axis: Mapping[str, Any]) -> str:
    first, called = _FIRST.get(name, ("", ""))
    between = [f"of {called}"] if first in axis["points"] else []
    several = ["at"] if len(axis["points"]) > 1 else []
    over = sorted({figures["over"] for peers in axis["points"].values() for figures in peers.values()})
    head = [*several, "peer", f"of {' or '.join(over)}", *between]
    rows = [
        [
            *([label] if several else []),
            peer,
            _spread(figures["ratio"]),
            *([_value(within_rounds(axis, (label, peer), (first, peer)))] if between else []),
            f"{figures['rate']['median']:,.0f}",
            f"{figures['cpu_us']['median']:,.0f}",
            *([f"{figures['wal_bytes']['median']:,.0f}"] if name in _TELLING_WAL else []),
            *([f"{figures['records_a_transaction']:g}"] if not several else []),
        ]
        for label, peers in axis["points"].items()
        for peer, figures in peers.items()
    ]
    wal = ["WAL, bytes a record"] if name in _TELLING_WAL else []
    transaction = [] if several else ["records a transaction"]
    return _table((*head, "records/s", "client CPU, µs a record", *wal, *transaction), rows)


def _spread(found: Mapping[str, Any]) -> str:
    return _value((found["median"], found["min"], found["max"]))


def _value(found: tuple[float, float, float]) -> str:
    median, least, most = found
    return f"**{median:.2f}**" + (f" [{least:.2f} .. {most:.2f}]" if least != most else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

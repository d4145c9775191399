"""Measure records a second from ``send`` to commit, beside the writer's peers, with one thing varied at a time.

Peers take turns, in another order each round, on the same bodies, tables and connection settings; what counts is
their ratio within a round.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.peers import LIMIT, WRITER, missing
from bench.report import ratios, spread, summary
from bench.throughput import axes, goals
from bench.throughput.axes import Axis
from bench.throughput.turns import Figure, Grounds, Key, Rounds, rounds_of

ROUNDS: Final = 6
PEER_ROUNDS: Final = 2
"""Rounds beside peers for each round of an axis: those figures are the ones that are quoted."""

MEASURES: Final = ("rate", "cpu_us", "wal_bytes")
"""Records a second; microseconds of this process a record; bytes of WAL a record."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Take the size of a run."""
    parser.add_argument("--records", type=int, help="in a turn (default 4,000; fewer for slow peers)")
    parser.add_argument("--axes", nargs="+", choices=[one.name for one in axes.FULL], help="(default: all)")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run every chosen axis, printing each when it is done."""
    records = options.records or (2_000 if options.quick else 4_000)
    for name in missing():
        print(f"{name}: left out, its driver is not installed (pip install 'rwriter[bench]')")
    found: dict[str, Any] = {}
    grounds = Grounds(url, axes.FILL)
    async with grounds.open() as database:
        settings = await database.settings()
        for axis in axes.QUICK if options.quick else axes.FULL:
            if options.axes is None or axis.name in options.axes:
                rounds = options.rounds * (PEER_ROUNDS if axis is axes.PEERS else 1)
                found[axis.name] = _figures(axis, await rounds_of(axis, grounds, rounds=rounds, count=records))
                print(*_axis_lines(found[axis.name]), sep="\n", flush=True)
    run = {"rounds": options.rounds, "records": records, "filled_rows": axes.FILL, "quick": options.quick}
    return {"server": settings, "run": run, "axes": found, "goals": goals.verdicts(found)}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each goal."""
    yield "\ngoals: median ratio [spread]"
    for name, found in result["goals"].items():
        bound = f"{'at most' if found['below'] else 'at least'} {found['goal']:g}"
        if found["found"] is None:
            yield f"  {name:<42} {bound}: not measured in this run"
        else:
            range_ = f"[{found['least']:.2f} .. {found['most']:.2f}]"
            yield f"  {name:<42} {found['found']:6.2f}  {range_}  {bound}: {'met' if found['met'] else 'MISSED'}"


def _figures(axis: Axis, rounds: Rounds) -> dict[str, Any]:
    """Return each measure's rounds by point and peer, and its ratio to the point's limit."""
    points = {
        label: {peer: _peer((label, peer), rounds) for peer in axis.peers if (label, peer) in rounds[0]}
        for label in axis.points
    }
    return {"title": axis.title, "points": points}


def _peer(key: Key, rounds: Rounds) -> dict[str, Any]:
    turns: Sequence[Figure] = [one[key] for one in rounds]
    over = _yardstick(key, rounds[0])
    last = turns[-1]
    return {
        **{measure: summary([getattr(turn, measure) for turn in turns]) for measure in MEASURES},
        "ratio": ratios([turn.rate for turn in turns], [one[over].rate for one in rounds]),
        "over": over[1],
        "records": last.records,
        "connections": last.connections,
        "records_a_transaction": round(last.stored.rows / last.stored.transactions, 1),
        "compression": last.stored.compression,
        "stored_fraction": round(last.stored.stored_fraction, 3),
    }


def _yardstick(key: Key, figures: Mapping[Key, Figure]) -> Key:
    """Return what a rate is a ratio to: the limit at the same point, or the other peer where COPY cannot do it."""
    at_point = [other for other in figures if other[0] == key[0]]
    limit = (key[0], LIMIT)
    return limit if limit in figures else max(at_point, key=lambda other: other[1] != WRITER)


def _axis_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n{found['title']}: ratio [spread], records/s, client CPU us a record, WAL bytes a record"
    for label, peers in found["points"].items():
        for peer, figures in peers.items():
            ratio = f"{spread(figures['ratio'])} of {figures['over']}"
            rate, cpu, wal = (figures[measure]["median"] for measure in MEASURES)
            yield f"  {label:<18} {peer:<28} {ratio:<40} {rate:8,.0f} {cpu:6.0f} {wal:8,.0f}"

"""What a run found: ratios within each round, their medians and spread, as lines and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from bench.axes import LIMIT, WRITER, Axis
from bench.turns import Figure, Key, Rounds

MEASURES: Final = ("rate", "cpu_us", "wal_bytes")
"""Records a second; microseconds of this process a record; bytes of WAL a record."""

_VERSIONS: Final = ("rwriter", "sqlalchemy", "asyncpg", "msgspec", "psycopg")


def summary(values: list[float]) -> dict[str, Any]:
    """Median, spread and the values themselves, to four digits."""
    digits = [float(f"{value:.4g}") for value in values]
    return {"median": statistics.median(digits), "min": min(digits), "max": max(digits), "rounds": digits}


def spread(found: Mapping[str, Any], digits: int = 2) -> str:
    """Return ``median [least .. most]`` of a summary."""
    return f"{found['median']:.{digits}f} [{found['min']:.{digits}f} .. {found['max']:.{digits}f}]"


def machine() -> dict[str, Any]:
    """What ran the measurement."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        # without what a distributor or a host adds to it
        "platform": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONS},
    }


def axis_as_json(axis: Axis, rounds: Rounds) -> dict[str, Any]:
    """``points``: by label and peer, each measure's rounds, in their order, and its ratio to the point's limit."""
    points: dict[str, dict[str, Any]] = {}
    for label, peer in rounds[0]:
        points.setdefault(label, {})[peer] = _figures((label, peer), rounds)
    ordered = {
        label: {peer: points[label][peer] for peer in axis.peers if peer in points[label]} for label in axis.points
    }
    return {"title": axis.title, "points": ordered}


def _figures(key: Key, rounds: Rounds) -> dict[str, Any]:
    turns = [one[key] for one in rounds]
    over = [one[_yardstick(key, one)].rate for one in rounds]
    last = turns[-1]
    return {
        **{measure: summary([getattr(turn, measure) for turn in turns]) for measure in MEASURES},
        "ratio": summary([turn.rate / rate for turn, rate in zip(turns, over, strict=True)]),
        "over": _yardstick(key, rounds[0])[1],
        "records": last.records,
        "connections": last.connections,
        "records_a_transaction": round(last.stored.rows / last.stored.transactions, 1),
        "compression": last.stored.compression,
        "stored_fraction": round(last.stored.stored_fraction, 3),
    }


def _yardstick(key: Key, figures: Mapping[Key, Figure]) -> Key:
    """What a rate is a ratio to: the limit at the same point, or the other peer where COPY can do no such thing."""
    at_point = [other for other in figures if other[0] == key[0]]
    limit = (key[0], LIMIT)
    return limit if limit in figures else max(at_point, key=lambda other: other[1] != WRITER)


def axis_lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each peer at each point."""
    lines = [f"\n{found['title']}: ratio [spread], records/s, client CPU us a record, WAL bytes a record"]
    for label, peers in found["points"].items():
        for peer, figures in peers.items():
            ratio, rate = figures["ratio"], figures["rate"]["median"]
            over = f"{ratio['median']:5.2f} of {figures['over']}  [{ratio['min']:.2f} .. {ratio['max']:.2f}]"
            cost = f"{figures['cpu_us']['median']:6.0f} {figures['wal_bytes']['median']:8,.0f}"
            lines.append(f"  {label:<18} {peer:<28} {over:<40} {rate:8,.0f} {cost}")
    return lines


def goal_lines(verdicts: Mapping[str, Any]) -> list[str]:
    """A line for each goal."""
    return ["\ngoals: median ratio [spread]", *(_goal_line(name, found) for name, found in verdicts.items())]


def _goal_line(name: str, found: Mapping[str, Any]) -> str:
    bound = f"{'at most' if found['below'] else 'at least'} {found['goal']:g}"
    if found["found"] is None:
        return f"  {name:<42} {bound}: not measured in this run"
    verdict = "met" if found["met"] else "MISSED"
    return f"  {name:<42} {found['found']:6.2f}  [{found['least']:.2f} .. {found['most']:.2f}]  {bound}: {verdict}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

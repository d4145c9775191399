"""Take turns in rounds, and put their figures into order: medians, ratios within rounds, percentiles, the JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

RESULTS: Final = Path(__file__).parent / "results"

_VERSIONS: Final = ("rwriter", "sqlalchemy", "asyncpg", "msgspec", "psycopg")

K = TypeVar("K")
T = TypeVar("T")


async def in_rounds(kinds: Iterable[K], rounds: int, turn: Callable[[K], Awaitable[T]]) -> dict[K, list[T]]:
    """Take the turn of every kind in each round, in another order each time; returns the rounds by kind.

    A round before them is not counted: it warms connections, statements, files and the interpreter.
    """
    found: dict[K, list[T]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind in rotated(found, number):
            figure = await turn(kind)
            if number:
                found[kind].append(figure)
    return found


def rotated(items: Iterable[T], number: int) -> list[T]:
    """Return ``items`` in the order of round ``number``."""
    listed = list(items)
    # a step of one would leave everybody behind the same one in all rounds but one
    by = number * 3 % len(listed)
    turned = [*listed[by:], *listed[:by]]
    # of two, turning is reversing: both would leave them as they were
    return turned[::-1] if number % 2 and len(turned) > 2 else turned  # noqa: PLR2004 -- two


def summary(values: Iterable[float]) -> dict[str, Any]:
    """Return the median, the spread and the values themselves, to four digits."""
    digits = [float(f"{value:.4g}") for value in values]
    return {"median": statistics.median(digits), "min": min(digits), "max": max(digits), "rounds": digits}


def ratios(values: Sequence[float], over: Sequence[float]) -> dict[str, Any]:
    """Return the summary of the ratios within each round."""
    return summary(one / other for one, other in zip(values, over, strict=True))


def compared(
    turns: Mapping[K, Sequence[Mapping[str, float]]], over: K, *, measure: str = "rate"
) -> dict[K, dict[str, Any]]:
    """Return the summary of each measure by kind, and as ``ratio`` that of ``measure`` over ``over``'s in its round."""
    yardstick = [turn[measure] for turn in turns[over]]
    return {
        kind: {
            **{name: summary(turn[name] for turn in each) for name in each[0]},
            "ratio": ratios([turn[measure] for turn in each], yardstick),
        }
        for kind, each in turns.items()
    }


def spread(found: Mapping[str, Any], digits: int = 2) -> str:
    """Return ``median [least .. most]`` of a summary."""
    return f"{found['median']:.{digits}f} [{found['min']:.{digits}f} .. {found['max']:.{digits}f}]"


def percentiles(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return the 50th and 99th percentile, and the maximum."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], digits), "p99": round(cuts[98], digits), "max": round(max(values), digits)}


def verdict(found: float, goal: float, *, at_least: bool = False) -> str:
    """Return the goal and whether it is met."""
    met = found >= goal if at_least else found <= goal
    return f"goal {goal:,.12g}: {'met' if met else 'MISSED'}"


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON that holds every figure of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Return what ran the measurement."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        # without what a distributor or a host adds to it
        "platform": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONS},
    }


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

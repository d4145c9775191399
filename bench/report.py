"""What a run found: ratios within each round, their medians and spread, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
from importlib.metadata import version
from typing import Any, Final

Rates = dict[str, float]
"""Records a second by peer, of one round."""

_VERSIONS: Final = ("rwriter", "sqlalchemy", "asyncpg", "msgspec")


@dataclasses.dataclass(frozen=True)
class Ratio:
    """One peer's rate over another's, taken within a round so that both ran on the same machine in the same mood."""

    name: str
    over: str
    goal: float | None = None

    def in_rounds(self, rounds: list[Rates]) -> list[float]:
        """The ratio in each round."""
        return [rates[self.name] / rates[self.over] for rates in rounds]


def ratio_lines(ratios: list[Ratio], rounds: list[Rates]) -> list[str]:
    """A line for each ratio."""
    return [_ratio_line(ratio, ratio.in_rounds(rounds)) for ratio in ratios]


def rate_lines(rounds: list[Rates]) -> list[str]:
    """A line for each peer: they say little about another machine."""
    return [_rate_line(name, [rates[name] for rates in rounds]) for name in rounds[0]]


def summary(values: list[float]) -> dict[str, Any]:
    """Median, spread and the values themselves, to four digits."""
    digits = [float(f"{value:.4g}") for value in values]
    return {"median": statistics.median(digits), "min": min(digits), "max": max(digits), "rounds": digits}


def as_json(ratios: list[Ratio], rounds: list[Rates], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything, for plots and comparisons."""
    return {
        "machine": machine(),
        **facts,
        "ratios": {f"{r.name} / {r.over}": summary(r.in_rounds(rounds)) | {"goal": r.goal} for r in ratios},
        "records_per_second": {name: summary([rates[name] for rates in rounds]) for name in rounds[0]},
    }


def machine() -> dict[str, Any]:
    """What ran the measurement."""
    return {
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
    }


def _ratio_line(ratio: Ratio, values: list[float]) -> str:
    median = statistics.median(values)
    rounds = " ".join(f"{value:.2f}" for value in values)
    verdict = "" if ratio.goal is None else f"   goal {ratio.goal:g}: {'met' if median >= ratio.goal else 'MISSED'}"
    return f"  {ratio.name + ' / ' + ratio.over:<42} {median:6.2f}   [{rounds}]{verdict}"


def _rate_line(name: str, values: list[float]) -> str:
    return f"  {name:<42} {statistics.median(values):8,.0f}   [{min(values):,.0f} .. {max(values):,.0f}]"

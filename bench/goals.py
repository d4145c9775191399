"""What the throughput is to be, as ratios within a round, and whether it is."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any, Final

from bench import axes
from bench.axes import LIMIT, WRITER

Figures = Mapping[str, Any]
"""The JSON's ``axes``: by axis, point, peer and measure the medians, spread and rounds."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """``measure`` of one peer at one point over another's, or at another point: ``at``/``over`` are (point, peer)."""

    name: str
    axis: axes.Axis
    at: tuple[str, str]
    over: tuple[str, str]
    bound: float
    measure: str = "rate"
    # of a cost less is better
    below: bool = False

    def in_rounds(self, figures: Figures) -> list[float] | None:
        """The ratio in each round, or ``None`` where the run did not measure it."""
        try:
            point = figures[self.axis.name]["points"]
            above, under = (point[label][peer][self.measure]["rounds"] for label, peer in (self.at, self.over))
        except KeyError:
            return None
        return [one / other for one, other in zip(above, under, strict=True)]

    def verdict(self, figures: Figures) -> dict[str, Any]:
        """The median of the rounds beside the bound."""
        values = self.in_rounds(figures)
        if values is None:
            return {"goal": self.bound, "below": self.below, "found": None, "met": None}
        found = statistics.median(values)
        met = found <= self.bound if self.below else found >= self.bound
        return {
            "goal": self.bound,
            "below": self.below,
            "found": float(f"{found:.4g}"),
            "least": float(f"{min(values):.4g}"),
            "most": float(f"{max(values):.4g}"),
            "met": met,
        }


_PEERS, _WRITER = "default", ("default", WRITER)


def _beside(name: str, peer: str, bound: float) -> Goal:
    return Goal(name, axes.PEERS, _WRITER, (_PEERS, peer), bound)


GOALS: Final = (
    _beside("writer / COPY, batch 100", LIMIT, 0.85),
    Goal("writer / COPY, batch 500", axes.BATCH, ("500", WRITER), ("500", LIMIT), 0.9),
    _beside("writer / three statements, own schema", axes.THREE_OWN, 1.8),
    _beside("writer / per request, 1", axes.PER_REQUEST, 10.0),
    _beside("writer / insertmanyvalues", axes.INSERTMANY, 1.1),
    _beside("writer / executemany", axes.EXECUTEMANY, 1.1),
    Goal(
        "client CPU: writer / insertmanyvalues", axes.PEERS, _WRITER, (_PEERS, axes.INSERTMANY), 1, "cpu_us", below=True
    ),
    Goal("client CPU: writer / executemany", axes.PEERS, _WRITER, (_PEERS, axes.EXECUTEMANY), 1, "cpu_us", below=True),
    Goal("2 million rows / empty, v7", axes.ROWS, ("v7, 2 million rows", WRITER), ("v7, empty", WRITER), 0.9),
    Goal("two flushes / one", axes.FLUSHES, ("2", WRITER), ("1", WRITER), 1.3),
)


def verdicts(figures: Figures) -> dict[str, Any]:
    """Of every goal."""
    return {goal.name: goal.verdict(figures) for goal in GOALS}

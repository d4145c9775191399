"""State the goals of the throughput, as ratios within a round, and the verdict on each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from bench.peers import EXECUTEMANY, INSERTMANY, LIMIT, PER_REQUEST, THREE_OWN, WRITER
from bench.report import ratios
from bench.throughput import axes


@dataclasses.dataclass(frozen=True)
class Goal:
    """``measure`` at one (point, peer) of an axis over that at another; ``below``: of a cost, less is better."""

    name: str
    axis: axes.Axis
    at: tuple[str, str]
    over: tuple[str, str]
    bound: float
    measure: str = "rate"
    below: bool = False

    def verdict(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Return the median ratio of the rounds in the JSON's ``axes`` beside the bound; without it if not measured."""
        goal = {"goal": self.bound, "below": self.below}
        try:
            points = figures[self.axis.name]["points"]
            above, under = (points[label][peer][self.measure]["rounds"] for label, peer in (self.at, self.over))
        except KeyError:
            return {**goal, "found": None, "met": None}
        ratio = ratios(above, under)
        found = ratio["median"]
        met = found <= self.bound if self.below else found >= self.bound
        return {**goal, "found": found, "least": ratio["min"], "most": ratio["max"], "met": met}


def _beside(peer: str, bound: float, name: str = "", *, cpu: bool = False) -> Goal:
    at, over = ("default", WRITER), ("default", peer)
    if cpu:
        return Goal(f"client CPU: writer / {peer}", axes.PEERS, at, over, bound, "cpu_us", below=True)
    return Goal(name or f"writer / {peer}", axes.PEERS, at, over, bound)


GOALS: Final = (
    _beside(LIMIT, 0.85, "writer / COPY, batch 100"),
    Goal("writer / COPY, batch 500", axes.BATCH, ("500", WRITER), ("500", LIMIT), 0.9),
    _beside(THREE_OWN, 1.8),
    _beside(PER_REQUEST, 10.0),
    _beside(INSERTMANY, 1.1),
    _beside(EXECUTEMANY, 1.1),
    _beside(INSERTMANY, 1.0, cpu=True),
    _beside(EXECUTEMANY, 1.0, cpu=True),
    Goal("2 million rows / empty, v7", axes.ROWS, ("v7, 2 million rows", WRITER), ("v7, empty", WRITER), 0.9),
    Goal("two flushes / one", axes.FLUSHES, ("2", WRITER), ("1", WRITER), 1.3),
)


def verdicts(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict of every goal."""
    return {goal.name: goal.verdict(figures) for goal in GOALS}

"""List what is varied, one thing at a time, and the peers that take part in each comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from bench.peers import EVERYONE, LIMIT, THREE, WRITER, Path, Setting

FILL: Final = 2_000_000
"""Rows already there, where the tables are not empty."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """``points`` by their labels; each of ``peers`` takes a turn at every point in every round.

    ``share``: of the records of a full turn, by label: points at which a record takes longer store fewer of them, and
    large batches more, as the last one of each connection runs alone.
    """

    name: str
    title: str
    points: Mapping[str, Setting]
    peers: Sequence[str] = (WRITER, LIMIT, THREE)
    share: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def only(self, *labels: str, peers: Sequence[str] = (WRITER, LIMIT)) -> Axis:
        """Return the axis with fewer points and peers."""
        return dataclasses.replace(self, points={label: self.points[label] for label in labels}, peers=peers)


PEERS: Final = Axis("peers", "Beside peers", {"default": Setting()}, EVERYONE)
BATCH: Final = Axis(
    "batch",
    "Records in a batch",
    {str(size): Setting(batch=size) for size in (1, 10, 100, 500, 1000)},
    share={"1": 0.3, "10": 0.7, "500": 2, "1000": 3},
)
BODIES: Final = Axis(
    "bodies",
    "Size of the bodies",
    {
        "0.2 + 0.3 kB": Setting(request_bytes=200, response_bytes=300),
        "2 + 4 kB": Setting(),
        "20 + 40 kB": Setting(request_bytes=20_000, response_bytes=40_000),
    },
    share={"0.2 + 0.3 kB": 2, "20 + 40 kB": 0.2},
)
FLUSHES: Final = Axis("flushes", "Flushes in flight", {str(number): Setting(flushes=number) for number in (1, 2, 4)})
PATHS: Final = Axis(
    "paths",
    "Rows that are new, and rows begun before",
    {path.value: Setting(path=path) for path in Path},
    (WRITER, THREE),
    {path.value: 0.5 for path in Path},
)
ROWS: Final = Axis(
    "rows",
    "Rows already there, and kinds of id",
    {
        "v7, empty": Setting(),
        "v7, 2 million rows": Setting(filled=True),
        "v4, empty": Setting(ids="v4"),
        "v4, 2 million rows": Setting(ids="v4", filled=True),
    },
    (WRITER, LIMIT),
)

FULL: Final = (PEERS, BATCH, BODIES, FLUSHES, PATHS, ROWS)
QUICK: Final = (
    PEERS,
    BATCH.only("10", "100", "500"),
    FLUSHES.only("1", "2"),
    BODIES.only("0.2 + 0.3 kB"),
    PATHS.only("update", peers=(WRITER, THREE)),
)

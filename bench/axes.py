"""What is varied, one thing at a time, and who takes part in each comparison."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Final

from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES

FILL: Final = 2_000_000
"""Rows already there, where the tables are not empty."""

WRITER: Final = "writer"
LIMIT: Final = "COPY"
THREE: Final = "three statements"
THREE_OWN: Final = "three statements, own schema"
PER_REQUEST: Final = "per request, 1"
PER_REQUEST_20: Final = "per request, 20"
INSERTMANY: Final = "insertmanyvalues"
EXECUTEMANY: Final = "executemany"
COPY_UPSERT: Final = "COPY, then upsert"
PIPELINE: Final = "psycopg pipeline"

EVERYONE: Final = (
    WRITER,
    LIMIT,
    THREE,
    THREE_OWN,
    COPY_UPSERT,
    INSERTMANY,
    EXECUTEMANY,
    PIPELINE,
    PER_REQUEST_20,
    PER_REQUEST,
)


class Path(enum.StrEnum):
    """What the database does with a record: insert it, finish a row that was begun, or one as often as the other."""

    INSERT = "insert"
    UPDATE = "update"
    MIXED = "mixed"


@dataclasses.dataclass(frozen=True)
class Setting:
    """How records are stored. ``flushes``: transactions in flight, each on a connection; ``ids``: ``v4`` or ``v7``."""

    batch: int = 100
    request_bytes: int = REQUEST_BYTES
    response_bytes: int = RESPONSE_BYTES
    flushes: int = 2
    path: Path = Path.INSERT
    ids: str = "v7"
    filled: bool = False


@dataclasses.dataclass(frozen=True)
class Axis:
    """``points`` by their labels; each of ``peers`` takes a turn at every point in every round.

    ``share``: of the records of a full turn, by label: points at which a record takes longer store fewer of them, and
    large batches more, as the last one of each connection runs alone.
    """

    name: str
    title: str
    points: Mapping[str, Setting]
    peers: Sequence[str]
    share: Mapping[str, float] = dataclasses.field(default_factory=dict)


_SIDE_BY_SIDE: Final = (WRITER, LIMIT, THREE)

PEERS: Final = Axis("peers", "Beside peers", {"default": Setting()}, EVERYONE)
BATCH: Final = Axis(
    "batch",
    "Records in a batch",
    {str(size): Setting(batch=size) for size in (1, 10, 100, 500, 1000)},
    _SIDE_BY_SIDE,
    {"1": 0.3, "10": 0.7, "500": 2, "1000": 3},
)
BODIES: Final = Axis(
    "bodies",
    "Size of the bodies",
    {
        "0.2 + 0.3 kB": Setting(request_bytes=200, response_bytes=300),
        "2 + 4 kB": Setting(),
        "20 + 40 kB": Setting(request_bytes=20_000, response_bytes=40_000),
    },
    _SIDE_BY_SIDE,
    {"0.2 + 0.3 kB": 2, "20 + 40 kB": 0.2},
)
FLUSHES: Final = Axis(
    "flushes",
    "Flushes in flight",
    {str(number): Setting(flushes=number) for number in (1, 2, 4)},
    _SIDE_BY_SIDE,
)
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


def _only(axis: Axis, *labels: str, peers: Sequence[str] = (WRITER, LIMIT)) -> Axis:
    return dataclasses.replace(axis, points={label: axis.points[label] for label in labels}, peers=peers)


QUICK: Final = (
    PEERS,
    _only(BATCH, "10", "100", "500"),
    _only(FLUSHES, "1", "2"),
    _only(BODIES, "0.2 + 0.3 kB"),
    _only(PATHS, "update", peers=(WRITER, THREE)),
)

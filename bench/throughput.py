"""Measure records a second from ``send`` to commit, beside the writer's peers, with one thing varied at a time.

Peers take turns, in another order each round, on the same bodies, tables and connection settings; what counts is
their ratio within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from bench import tables
from bench.database import SCHEMA, Database
from bench.peers import EXECUTEMANY, INSERTMANY, LIMIT, OPEN, PER_REQUEST, THREE, THREE_OWN, WRITER
from bench.peers.common import Path, Peer, Setting
from bench.report import compared, in_rounds, ratios, spread
from bench.traffic import Bodies, Traffic, records
from rwriter import new_request_id

ROUNDS: Final = 6
PEER_ROUNDS: Final = 2
"""Rounds beside peers for each round of an axis: those figures are the ones that are quoted."""
FILL: Final = 2_000_000
"""Rows already there, where the tables are not empty."""

MEASURES: Final = ("rate", "cpu_us", "wal_bytes")
"""Records a second; microseconds of this process a record; bytes of WAL a record."""

Key = tuple[str, str]
"""Label of the point, name of the peer."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """``points`` by their labels; each of ``peers`` takes a turn at every point in every round.

    ``share``: of the records of a full turn, by label: points at which a record takes longer store fewer of them, and
    large batches more, as the last one of each connection runs alone.
    """

    title: str
    points: Mapping[str, Setting]
    peers: Sequence[str] = (WRITER, LIMIT, THREE)
    share: Mapping[str, float] = dataclasses.field(default_factory=dict)


AXES: Final = {
    "peers": Axis("Beside peers", {"default": Setting()}, tuple(OPEN)),
    "batch": Axis(
        "Records in a batch",
        {str(size): Setting(batch=size) for size in (1, 10, 100, 500, 1000)},
        share={"1": 0.3, "10": 0.7, "500": 2, "1000": 3},
    ),
    "bodies": Axis(
        "Size of the bodies",
        {
            "0.2 + 0.3 kB": Setting(request_bytes=200, response_bytes=300),
            "2 + 4 kB": Setting(),
            "20 + 40 kB": Setting(request_bytes=20_000, response_bytes=40_000),
        },
        share={"0.2 + 0.3 kB": 2, "20 + 40 kB": 0.2},
    ),
    "flushes": Axis("Flushes in flight", {str(number): Setting(flushes=number) for number in (1, 2, 4)}),
    "paths": Axis(
        "Rows that are new, and rows begun before",
        {path.value: Setting(path=path) for path in Path},
        (WRITER, THREE),
        {path.value: 0.5 for path in Path},
    ),
    "rows": Axis(
        "Rows already there, and kinds of id",
        {
            "v7, empty": Setting(),
            "v7, 2 million rows": Setting(filled=True),
            "v4, empty": Setting(ids="v4"),
            "v4, 2 million rows": Setting(ids="v4", filled=True),
        },
        (WRITER, LIMIT),
    ),
}

_DEFAULT: Final = ("default", WRITER)
GOALS: Final[Mapping[str, tuple[str, Key, Key, float, str]]] = {
    "writer / COPY, batch 100": ("peers", _DEFAULT, ("default", LIMIT), 0.85, "rate"),
    "writer / COPY, batch 500": ("batch", ("500", WRITER), ("500", LIMIT), 0.9, "rate"),
    f"writer / {THREE_OWN}": ("peers", _DEFAULT, ("default", THREE_OWN), 1.8, "rate"),
    f"writer / {PER_REQUEST}": ("peers", _DEFAULT, ("default", PER_REQUEST), 10.0, "rate"),
    f"writer / {INSERTMANY}": ("peers", _DEFAULT, ("default", INSERTMANY), 1.1, "rate"),
    f"writer / {EXECUTEMANY}": ("peers", _DEFAULT, ("default", EXECUTEMANY), 1.1, "rate"),
    f"client CPU: writer / {INSERTMANY}": ("peers", _DEFAULT, ("default", INSERTMANY), 1.0, "cpu_us"),
    f"client CPU: writer / {EXECUTEMANY}": ("peers", _DEFAULT, ("default", EXECUTEMANY), 1.0, "cpu_us"),
    "2 million rows / empty, v7": ("rows", ("v7, 2 million rows", WRITER), ("v7, empty", WRITER), 0.9, "rate"),
    "two flushes / one": ("flushes", ("2", WRITER), ("1", WRITER), 1.3, "rate"),
}
"""Axis, point and peer, those it is compared with, the bound, and the measure: at most the bound for a cost."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Take the size of a run."""
    parser.add_argument("--records", type=int, help="in a turn (default 4,000, with --quick 400; fewer for slow peers)")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="(default: all)")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run every chosen axis, printing each when it is done."""
    records, rows = options.records or (400 if options.quick else 4_000), FILL // 100 if options.quick else FILL
    found: dict[str, Any] = {}
    grounds = Grounds(url, rows)
    async with grounds.open() as database:
        settings = await database.settings()
        for name in options.axes:
            rounds = options.rounds * (PEER_ROUNDS if name == "peers" else 1)
            found[name] = await _axis(AXES[name], grounds, rounds, records)
            print(*_axis_lines(found[name]), sep="\n", flush=True)
    run = {"rounds": options.rounds, "records": records, "filled_rows": rows, "quick": options.quick}
    return {"server": settings, "run": run, "axes": found, "goals": {name: _verdict(name, found) for name in GOALS}}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each goal."""
    yield "\ngoals: median ratio [spread]"
    for name, one in result["goals"].items():
        bound = f"{'at most' if one['below'] else 'at least'} {one['goal']:g}"
        told = "not measured" if one["met"] is None else f"{spread(one['found'])}: {'met' if one['met'] else 'MISSED'}"
        yield f"  {name:<42} {bound:<14} {told}"


# -- the figures


async def _axis(axis: Axis, grounds: Grounds, rounds: int, count: int) -> dict[str, Any]:
    """Return each measure by point and peer, and the ratio of its rate to that of the point's limit."""
    async with contextlib.AsyncExitStack() as stack:
        cases = {case.key: case for case in await _open(axis, grounds, stack, count)}
        turns = await in_rounds(cases, rounds, lambda key: _turn(cases[key]))
    points: dict[str, Any] = {}
    for label in axis.points:
        at_point = {peer: turns[label, peer] for peer in axis.peers}
        # COPY cannot finish rows that were begun: there the other peer is the measure
        over = LIMIT if LIMIT in at_point else list(at_point)[-1]
        points[label] = {peer: figures | {"over": over} for peer, figures in compared(at_point, over).items()}
    return {"title": axis.title, "points": points}


def _verdict(name: str, axes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a goal beside the ratio of the rounds, which is ``None`` if it was not measured."""
    axis, at, over, bound, measure = GOALS[name]
    goal = {"goal": bound, "below": measure != "rate"}
    if axis not in axes:
        return {**goal, "found": None, "met": None}
    above, under = (axes[axis]["points"][label][peer][measure]["rounds"] for label, peer in (at, over))
    found = ratios(above, under)
    met = found["median"] <= bound if goal["below"] else found["median"] >= bound
    return {**goal, "found": found, "met": met}


def _axis_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n{found['title']}: ratio [spread], records/s, client CPU us a record, WAL bytes a record"
    for label, peers in found["points"].items():
        for peer, figures in peers.items():
            ratio = f"{spread(figures['ratio'])} of {figures['over']}"
            rate, cpu, wal = (figures[measure]["median"] for measure in MEASURES)
            yield f"  {label:<18} {peer:<28} {ratio:<40} {rate:8,.0f} {cpu:6.0f} {wal:8,.0f}"


# -- a turn


@dataclasses.dataclass(frozen=True)
class Case:
    """A peer at a point: opened once, one turn in every round."""

    key: Key
    peer: Peer
    database: Database
    setting: Setting
    bodies: Sequence[Bodies]


class Grounds:
    """The tables that turns take place on, each kind made when it is first asked for."""

    def __init__(self, url: str, rows: int) -> None:
        self._url, self._rows = url, rows
        self._made: dict[str, Database] = {}
        self._stack: Final = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Database]:
        """Yield the plain, empty tables; drop all of them at the end."""
        async with self._stack:
            yield await self.of("", Setting())

    async def of(self, peer: str, setting: Setting) -> Database:
        """Return the tables that ``peer`` stores to under ``setting``."""
        suffix = "_own" if peer == THREE_OWN else f"_{setting.ids}" if setting.filled else ""
        if suffix not in self._made:
            self._made[suffix] = database = Database(self._url, SCHEMA + suffix)
            await self._stack.enter_async_context(database.tables())
            if peer == THREE_OWN:
                await tables.add_daemon_indexes(database)
            if setting.filled:
                await tables.fill(database, self._rows, setting.ids)
        return self._made[suffix]


async def _open(axis: Axis, grounds: Grounds, stack: contextlib.AsyncExitStack, count: int) -> list[Case]:
    cases = []
    for label, setting in axis.points.items():
        number = int(count * axis.share.get(label, 1))
        bodies = Traffic().bodies(number, request_bytes=setting.request_bytes, response_bytes=setting.response_bytes)
        for name in axis.peers:
            database = await grounds.of(name, setting)
            peer = await stack.enter_async_context(OPEN[name](database, setting))
            cases.append(Case((label, name), peer, database, setting, bodies[: int(number * peer.share)]))
    return cases


async def _turn(case: Case) -> dict[str, float]:
    """Store the case's bodies in empty tables, timed, and count the rows."""
    database, setting = case.database, case.setting
    owner = f"bench-{uuid.uuid4()}"
    await (database.checkpoint() if setting.filled else database.empty())
    given = records(case.bodies, new_id=uuid.uuid4 if setting.ids == "v4" else new_request_id, owner=owner)
    begun = {Path.INSERT: given[:0], Path.UPDATE: given, Path.MIXED: given[::2]}[setting.path]
    await tables.begin(database, begun)
    work, wal = case.peer.work(given), await database.wal_position()
    gc.collect()
    cpu, started = time.process_time(), time.perf_counter()
    await work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    number, wal = len(given), await database.wal_position() - wal
    stored = await database.verify(number, owner=owner)
    measured = {"rate": number / seconds, "cpu_us": cpu / number * 1e6, "wal_bytes": wal / number}
    return {**measured, "records": number, "records_a_transaction": number / stored["transactions"]}

"""A turn of one peer at one point of an axis, and the rounds in which they take turns."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, TypeVar

from bench import tables
from bench.axes import THREE_OWN, Axis, Path, Setting
from bench.database import SCHEMA, Database, Stored, used
from bench.peers import Peer, missing, open_peer
from bench.traffic import Bodies, Traffic, records
from rwriter import CompletedRequest, new_request_id

WARM_UP: Final = 0.2
"""Of the records of a turn: connections are opened and statements prepared before anything counts."""

T = TypeVar("T")

Key = tuple[str, str]
"""Label of the point, name of the peer."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """What a turn took. ``cpu_us``: processor time of this process a record; ``wal_bytes``: WAL written a record.

    ``server_us``: the server's processor time a record, where the server runs on this machine.
    """

    rate: float
    cpu_us: float
    server_us: float | None
    wal_bytes: float
    records: int
    connections: int
    stored: Stored


@dataclasses.dataclass(frozen=True)
class Case:
    """A peer at a point: opened once, one turn in every round."""

    key: Key
    peer: Peer
    database: Database
    setting: Setting
    bodies: Sequence[Bodies]


Rounds = list[Mapping[Key, Figure]]


class Grounds:
    """The tables that turns take place on, each kind made when it is first asked for."""

    def __init__(self, url: str, rows: int) -> None:
        self._url, self._rows = url, rows
        self._made: dict[str, Database] = {}
        self._stack: Final = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Database]:
        """The plain, empty tables; drops all of them at the end."""
        async with self._stack:
            yield await self.of("", Setting())

    async def of(self, peer: str, setting: Setting) -> Database:
        """The tables ``peer`` stores to under ``setting``."""
        suffix = "_own" if peer == THREE_OWN else f"_{setting.ids}" if setting.filled else ""
        if suffix not in self._made:
            self._made[suffix] = database = Database(self._url, SCHEMA + suffix)
            await self._stack.enter_async_context(database.tables())
            if peer == THREE_OWN:
                await tables.add_daemon_indexes(database)
            if setting.filled:
                started = time.perf_counter()
                await tables.fill(database, self._rows, setting.ids)
                print(f"  {self._rows:,} rows with {setting.ids} ids, {time.perf_counter() - started:.0f} s")
        return self._made[suffix]


async def measure(axis: Axis, grounds: Grounds, *, rounds: int, count: int) -> Rounds:
    """Every peer at every point, ``rounds`` times, in another order each time; ``count`` records in a full turn."""
    async with contextlib.AsyncExitStack() as stack:
        cases = await _open(axis, grounds, stack, count)
        for case in cases:
            await turn(case, case.bodies[: max(20, int(len(case.bodies) * WARM_UP))])
        return [{case.key: await turn(case, case.bodies) for case in rotated(cases, n)} for n in range(rounds)]


async def _open(axis: Axis, grounds: Grounds, stack: contextlib.AsyncExitStack, count: int) -> list[Case]:
    cases = []
    for label, setting in axis.points.items():
        number = int(count * axis.share.get(label, 1))
        bodies = Traffic().bodies(number, request_bytes=setting.request_bytes, response_bytes=setting.response_bytes)
        for name in axis.peers:
            if name in missing():
                continue
            database = await grounds.of(name, setting)
            peer = await stack.enter_async_context(open_peer(name, database, setting))
            cases.append(Case((label, name), peer, database, setting, bodies[: int(number * peer.share)]))
    return cases


async def turn(case: Case, bodies: Sequence[Bodies]) -> Figure:
    """One turn on empty tables: ``bodies`` stored and timed, the rows counted."""
    database, setting = case.database, case.setting
    owner = f"bench-{uuid.uuid4()}"
    await (database.checkpoint() if setting.filled else database.empty())
    new_id = uuid.uuid4 if setting.ids == "v4" else new_request_id
    given = records(bodies, new_id=new_id, owner=owner)
    await tables.begin(database, _begun(given, setting.path))
    work, wal = case.peer.work(given), await database.wal_position()
    server = await database.processor_times()
    gc.collect()
    cpu, started = time.process_time(), time.perf_counter()
    await work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    number, wal = len(given), await database.wal_position() - wal
    spent = used(server, await database.processor_times())
    stored = await database.verify(number, owner=owner)
    server_us = None if spent is None else spent / number * 1e6
    return Figure(number / seconds, cpu / number * 1e6, server_us, wal / number, number, case.peer.connections, stored)


def _begun(given: Sequence[CompletedRequest], path: Path) -> Sequence[CompletedRequest]:
    return {Path.INSERT: given[:0], Path.UPDATE: given, Path.MIXED: given[::2]}[path]


def rotated(cases: Sequence[T], number: int) -> list[T]:
    """The order of round ``number``."""
    # a step of one would leave every peer behind the same one in all rounds but one
    by = number * 3 % len(cases)
    turned = [*cases[by:], *cases[:by]]
    return turned if number % 2 == 0 else turned[::-1]

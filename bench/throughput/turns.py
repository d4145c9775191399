"""A turn of one peer at one point of an axis, and the rounds in which they take turns."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from bench import tables
from bench.database import SCHEMA, Database, Stored
from bench.peers import THREE_OWN, Path, Peer, Setting, missing, open_peer
from bench.report import rotated
from bench.throughput.axes import Axis
from bench.traffic import Bodies, Traffic, records
from rwriter import new_request_id

WARM_UP: Final = 0.2
"""Share of a turn's records stored first: it opens connections and prepares statements before anything counts."""

Key = tuple[str, str]
"""Label of the point, name of the peer."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """The figures of a turn. ``cpu_us``: this process's processor time a record; ``wal_bytes``: WAL a record."""

    rate: float
    cpu_us: float
    wal_bytes: float
    records: int
    connections: int
    stored: Stored


Rounds = list[Mapping[Key, Figure]]


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


async def rounds_of(axis: Axis, grounds: Grounds, *, rounds: int, count: int) -> Rounds:
    """Take every peer's turn at every point, ``rounds`` times, in another order each time.

    ``count``: records in a full turn.
    """
    async with contextlib.AsyncExitStack() as stack:
        cases = await _open(axis, grounds, stack, count)
        for case in cases:
            await _turn(case, case.bodies[: max(20, int(len(case.bodies) * WARM_UP))])
        return [{case.key: await _turn(case, case.bodies) for case in rotated(cases, n)} for n in range(rounds)]


async def _open(axis: Axis, grounds: Grounds, stack: contextlib.AsyncExitStack, count: int) -> list[Case]:
    cases = []
    for label, setting in axis.points.items():
        number = int(count * axis.share.get(label, 1))
        bodies = Traffic().bodies(number, request_bytes=setting.request_bytes, response_bytes=setting.response_bytes)
        for name in axis.peers:
            if name not in missing():
                database = await grounds.of(name, setting)
                peer = await stack.enter_async_context(open_peer(name, database, setting))
                cases.append(Case((label, name), peer, database, setting, bodies[: int(number * peer.share)]))
    return cases


async def _turn(case: Case, bodies: Sequence[Bodies]) -> Figure:
    """Store ``bodies`` in empty tables, timed, and count the rows."""
    database, setting = case.database, case.setting
    owner = f"bench-{uuid.uuid4()}"
    await (database.checkpoint() if setting.filled else database.empty())
    given = records(bodies, new_id=uuid.uuid4 if setting.ids == "v4" else new_request_id, owner=owner)
    begun = {Path.INSERT: given[:0], Path.UPDATE: given, Path.MIXED: given[::2]}[setting.path]
    await tables.begin(database, begun)
    work, wal = case.peer.work(given), await database.wal_position()
    gc.collect()
    cpu, started = time.process_time(), time.perf_counter()
    await work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    number, wal = len(given), await database.wal_position() - wal
    stored = await database.verify(number, owner=owner)
    return Figure(number / seconds, cpu / number * 1e6, wal / number, number, case.peer.connections, stored)

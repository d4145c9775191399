"""``Upkeep``: retention beside the writer, by one process of the fleet at a time, slowly enough for live traffic."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from rwriter._database_errors import describe
from rwriter._validation import at_least, positive
from rwriter.partitions import ensure
from rwriter.store import RequestStore, TableSize, table_sizes

MEASURE_TIMEOUT: Final = 5.0
"""Seconds in which the server must tell the sizes of the tables: it looks at the files of every partition."""

log: Final[logging.Logger] = logging.getLogger("rwriter")


class _Found(msgspec.Struct):
    """Holds what a writer's latest rounds found. After ``until`` it is out of date: other processes had the turn."""

    until: float = math.inf
    backlog: float | None = None
    sizes: list[TableSize] = []


_found: Final[dict[str, _Found]] = {}


def _found_by(writer: str) -> _Found:
    return _found.setdefault(writer, _Found())


def _observe(values: Callable[[_Found], Iterable[tuple[float, dict[str, str]]]]) -> metrics.CallbackT:
    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        for name, found in list(_found.items()):
            if time.monotonic() < found.until:
                yield from (Observation(value, {"writer": name, **labels}) for value, labels in values(found))

    return callback


def _backlog(found: _Found) -> Iterable[tuple[float, dict[str, str]]]:
    return [] if found.backlog is None else [(found.backlog, {})]


def _rows(found: _Found) -> Iterable[tuple[float, dict[str, str]]]:
    return [(size.rows, {"table": size.table}) for size in found.sizes]


def _bytes(found: _Found) -> Iterable[tuple[float, dict[str, str]]]:
    for size in found.sizes:
        yield size.table_bytes, {"table": size.table, "part": "rows"}
        yield size.index_bytes, {"table": size.table, "part": "indexes"}


_meter: Final = metrics.get_meter("rwriter")
_meter.create_observable_gauge(
    "rwriter.upkeep.backlog",
    [_observe(_backlog)],
    unit="s",
    description="By how much the oldest request is past purge_after.",
)
_meter.create_observable_gauge(
    "rwriter.table.rows", [_observe(_rows)], unit="{row}", description="Rows of a table, as the server estimates them."
)
_meter.create_observable_gauge(
    "rwriter.table.size", [_observe(_bytes)], unit="By", description="Bytes of a table and of its indexes on disk."
)


class Upkeep(msgspec.Struct, frozen=True, kw_only=True):
    """Says what a writer does to old rows: ``RequestsWriter(..., upkeep=Upkeep(...))``. ``None`` leaves a job out.

    ====================  ====================================================================================
    ``purge_after``       age at which finished requests, their templates and dead letters are deleted
    ``bodies_after``      age at which their bodies and errors are emptied, and dead letters deleted
    ``fail_stale_after``  time after which a row still in ``processing`` is failed: its process died
    ``partitions``        how far ahead the partitions of partitioned tables are made
    ``every``             pause between two rounds
    ``measure``           ask the server in each round how large the tables are, for the gauges
    ``rest``              pause after each transaction of a round, as a multiple of the time that it took
    ====================  ====================================================================================

    Raises ``ValueError`` or ``TypeError`` naming the field that cannot be used.
    """

    purge_after: timedelta | None = None
    bodies_after: timedelta | None = None
    fail_stale_after: timedelta | None = None
    partitions: timedelta | None = None
    every: timedelta = timedelta(minutes=5)
    measure: bool = True
    rest: float = 4.0

    def __post_init__(self) -> None:
        for field in ("purge_after", "bodies_after", "fail_stale_after", "partitions", "every"):
            value = getattr(self, field)
            if value is None and field != "every":
                continue
            if not isinstance(value, timedelta):
                msg = f"{field} must be a timedelta, not {type(value).__name__}"
                raise TypeError(msg)
            positive(field, value)
        at_least("rest", self.rest, 0)


async def keep_up(upkeep: Upkeep, store: RequestStore, *, name: str, is_up: Callable[[], bool]) -> None:
    """Do one round after the other, for ever. Whatever a round raises is logged, and left to the next."""
    try:
        while True:
            if is_up():
                await _turn(upkeep, store, name)
            await asyncio.sleep(upkeep.every.total_seconds())
    finally:
        # the gauges tell nothing of a writer that is closed
        _found.pop(name, None)


async def _turn(upkeep: Upkeep, store: RequestStore, name: str) -> None:
    try:
        async with store.turn("upkeep") as mine:
            if mine:
                await _round(upkeep, store, name)
    except Exception as exc:  # noqa: BLE001 -- housekeeping: the next round will do
        log.warning("%s: upkeep is put off for %s: %s", name, upkeep.every, describe(exc))


async def _round(upkeep: Upkeep, store: RequestStore, name: str) -> None:
    found = _found_by(name)
    # a round may take hours, and what was found before holds as long
    found.until = math.inf
    for job in (_make_partitions, _fail_stale, _empty_bodies, _purge, _measure):
        try:
            done = await job(upkeep, store, name)
        except Exception as exc:  # noqa: BLE001 -- one job that fails does not stop the others
            log.warning("%s: upkeep cannot do all of its work: %s", name, describe(exc))
            continue
        if done:
            log.info("%s: upkeep: %s", name, done)
    # of rounds that are put off the figures still hold, be they as short as a test's
    found.until = time.monotonic() + 3 * upkeep.every.total_seconds() + 60


async def _make_partitions(upkeep: Upkeep, store: RequestStore, _name: str) -> str:
    if upkeep.partitions is None:
        return ""
    made = await ensure(store.engine, ahead=upkeep.partitions)
    return f"made {len(made)} partitions" if made else ""


async def _fail_stale(upkeep: Upkeep, store: RequestStore, _name: str) -> str:
    if upkeep.fail_stale_after is None:
        return ""
    number = await store.fail_stale(upkeep.fail_stale_after)
    return f"failed {number} requests stuck in processing" if number else ""


async def _empty_bodies(upkeep: Upkeep, store: RequestStore, _name: str) -> str:
    if upkeep.bodies_after is None:
        return ""
    done = await store.purge(datetime.now(UTC) - upkeep.bodies_after, bodies_only=True, rest=upkeep.rest)
    return f"emptied {done.requests} requests" if done.requests else ""


async def _purge(upkeep: Upkeep, store: RequestStore, name: str) -> str:
    if upkeep.purge_after is None:
        return ""
    cut = datetime.now(UTC) - upkeep.purge_after
    oldest = await store.oldest_finished()
    overdue = timedelta(0) if oldest is None else max(cut - oldest, timedelta(0))
    _found_by(name).backlog = overdue.total_seconds()
    done = await store.purge(cut, rest=upkeep.rest)
    if done.requests:
        _found_by(name).backlog = 0.0
    number = done.requests + done.dead_letters
    return f"deleted {number} requests and dead letters" if number else ""


async def _measure(upkeep: Upkeep, store: RequestStore, name: str) -> str:
    if upkeep.measure:
        async with asyncio.timeout(MEASURE_TIMEOUT), store.engine.connect() as connection:
            _found_by(name).sizes = await table_sizes(connection)
    return ""

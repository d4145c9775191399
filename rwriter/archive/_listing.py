"""An owner's requests in an archive, newest first, page by page. Reads the owner's cuts alone. Its calls block."""

from __future__ import annotations

import contextlib
import heapq
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from rwriter._values.texts import repair
from rwriter.archive._finding import SUMMARY, fields_of
from rwriter.archive._layout import TIME, CutFile, Manifest
from rwriter.archive._reading import Cuts, groups_of, may_hold_times, rows_in
from rwriter.store import RequestFilter, RequestSummary
from rwriter.store._cursor import Position, decode_cursor, encode_cursor
from rwriter.store._predicates import json_of
from rwriter.store._results import summary_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FACTS_ALONE: Final = ("id", "created_at", "status", "model", "service_tier")


def page(
    cuts: Cuts, listed: Mapping[str, Manifest], filter_: RequestFilter, owner: str
) -> tuple[list[RequestSummary], str | None]:
    """Return one page and the cursor of the next, as ``RequestStore.list_page`` does."""
    found: list[RequestSummary] = []
    with contextlib.closing(_merged(cuts, listed, _Asked.of(filter_, owner), SUMMARY)) as rows:
        for number, row in enumerate(rows):
            if number < filter_.offset:
                continue
            if len(found) == filter_.limit:
                return found, encode_cursor(Position(active=False, created_at=found[-1].created_at, id=found[-1].id))
            found.append(summary_of(row))
    return found, None


def count(cuts: Cuts, listed: Mapping[str, Manifest], filter_: RequestFilter, owner: str) -> int:
    """Return how many of the owner's rows match, cursor and limit aside. Reads narrow columns alone."""
    asked = _Asked.of(filter_, owner)._replace(position=None)
    columns = SUMMARY if asked.metadata else _FACTS_ALONE
    return sum(1 for _ in _merged(cuts, listed, asked, columns))


class _Asked(NamedTuple):
    """A filter, read once."""

    owner: str
    status: str | None
    models: Sequence[str] | None
    tiers: Sequence[str | None] | None
    after: datetime | None
    before: datetime | None
    metadata: dict[str, Any] | None
    position: Position | None

    @classmethod
    def of(cls, filter_: RequestFilter, owner: str) -> _Asked:
        """Read the filter of an owner's rows."""
        position = None if filter_.cursor is None else decode_cursor(filter_.cursor)
        return cls(
            owner=owner,
            status=filter_.status,
            models=None if filter_.models is None else [repair(model) for model in filter_.models],
            tiers=filter_.service_tiers,
            after=filter_.created_after,
            before=filter_.created_before,
            metadata=msgspec.json.decode(json_of(filter_.metadata)) if filter_.metadata else None,
            # what is in an archive is finished, and comes after everything in flight
            position=None if position is None or position.active else position,
        )

    @property
    def latest(self) -> datetime | None:
        """The latest time that a row may have been created."""
        bounds = [each for each in (self.before, self.position and self.position.created_at) if each is not None]
        return min(bounds, default=None)

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Return True if the row matches what the columns alone did not decide."""
        if self.position is not None and not (row["created_at"], row["id"]) < self.position[1:]:
            return False
        return not self.metadata or _contains(row["metadata"], self.metadata)

    def among(self, table: pa.Table) -> pa.Table:
        """Return the rows of ``table`` that the columns do not rule out."""
        masks = []
        if self.after is not None:
            masks.append(pc.greater_equal(table["created_at"], pa.scalar(self.after, TIME)))
        if self.latest is not None:
            masks.append(pc.less_equal(table["created_at"], pa.scalar(self.latest, TIME)))
        for name, values in (("status", self.status and [self.status]), ("model", self.models)):
            if values is not None:
                masks.append(pc.is_in(table[name], pa.array(values, pa.string())))
        if self.tiers is not None:
            # a null among them matches rows without a tier
            masks.append(pc.is_in(table["service_tier"], pa.array(self.tiers, pa.string())))
        for mask in masks[1:]:
            masks[0] = pc.and_(masks[0], mask)
        return table.filter(masks[0]) if masks else table


def _merged(
    cuts: Cuts, listed: Mapping[str, Manifest], asked: _Asked, columns: Sequence[str]
) -> Generator[dict[str, Any]]:
    """Yield the rows of all partitions in the order of the listing, each id once.

    A cut is opened when its latest row may be the next one: those of long ago are not, unless the page gets there.
    """
    waiting = sorted(_files(listed, asked), key=lambda file: file.created_last)
    heap: list[tuple[Any, ...]] = []
    seen: set[uuid.UUID] = set()
    with contextlib.ExitStack() as stack:
        while heap or waiting:
            while waiting and (not heap or waiting[-1].created_last >= heap[0][-1]["created_at"]):
                rows = stack.enter_context(contextlib.closing(_rows(cuts, waiting.pop(), asked, columns)))
                _push(heap, rows)
            if not heap:
                continue
            *_, rows, row = heapq.heappop(heap)
            _push(heap, rows)
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row


def _push(heap: list[tuple[Any, ...]], rows: Iterator[dict[str, Any]]) -> None:
    row = next(rows, None)
    if row is not None:
        # a heap has the smallest on top: the key is turned round; the number keeps rows from being compared
        age = -((row["created_at"] - _EPOCH) // _MICROSECOND)
        heapq.heappush(heap, (age, -row["id"].int, id(rows), rows, row))


def _files(listed: Mapping[str, Manifest], asked: _Asked) -> Iterator[CutFile]:
    for manifest in listed.values():
        file = manifest.file_of(asked.owner)
        if file is None or (asked.after is not None and file.created_last < asked.after):
            continue
        if asked.latest is None or file.created_first <= asked.latest:
            yield file


def _rows(cuts: Cuts, cut: CutFile, asked: _Asked, columns: Sequence[str]) -> Generator[dict[str, Any]]:
    with cuts.open(cut.path) as file:
        for group in groups_of(file.metadata, asked.owner):
            if may_hold_times(file.metadata, group, asked.after, asked.latest):
                for row in asked.among(rows_in(file, group, columns, asked.owner)).to_pylist():
                    fields = fields_of(row, columns)
                    if asked.takes(fields):
                        yield fields


def _contains(facts: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Return True if the row has each of the facts, as ``@>`` says in the database: there true is not 1."""
    return facts is not None and all(
        name in facts and facts[name] == value and isinstance(facts[name], bool) == isinstance(value, bool)
        for name, value in wanted.items()
    )

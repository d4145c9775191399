"""One pending record, and the index of all of them."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from typing import Final, TypeVar

import msgspec
from opentelemetry.trace import SpanContext

from rwriter._values.traces import named
from rwriter.errors import WriterClosed, WriterNotOpen
from rwriter.records import CompletedRequest, client_ids
from rwriter.writer._account import Fate

E = TypeVar("E", bound=WriterNotOpen | WriterClosed)


# gc=False is safe: the only cycle is record -> waiter -> waiting frame -> record, and settling the record breaks it
class PendingRecord(msgspec.Struct, eq=False, gc=False):
    """An accepted record with its bookkeeping: ``fate`` is ``None`` until it is settled, and never changes then."""

    record: CompletedRequest
    size: int
    seq: int
    accepted_at: float
    fate: Fate | None = None
    waiter: asyncio.Future[None] | None = None
    refused_at: int | None = None
    """``Outage.attempts`` when the database first refused a statement with this record in it."""
    span: SpanContext | None = None
    """The recorded span that the record was sent in, if any."""

    @property
    def name(self) -> str:
        """The record's id and trace, for a line of the log."""
        traceparent = (self.record.metadata or {}).get("traceparent")
        if traceparent is None and self.span is not None:
            traceparent = f"00-{self.span.trace_id:032x}-{self.span.span_id:016x}-01"
        return named(self.record.request_id, traceparent)

    def answer(self, error: Exception | None) -> None:
        """Tell the sender that waits for this record, if any, of its end."""
        if self.waiter is None or self.waiter.done():
            return
        if error is None:
            self.waiter.set_result(None)
        else:
            self.waiter.set_exception(error)


class PendingIndex:
    """Finds pending records by the request's id, and by the id its client knows.

    Of each id one record at a time may be queued or taken, and the others stay behind it: in two flushes at once the
    later record could be stored first, and win.
    """

    def __init__(self) -> None:
        # by the id's number, which hashes in C: an id's own hash would be a tenth of what accepting a record costs
        self._head_by_id: Final[dict[int, PendingRecord]] = {}
        self._queued_behind: Final[dict[int, deque[PendingRecord]]] = {}
        self._by_custom_id: Final[dict[tuple[str, str], PendingRecord]] = {}

    def add(self, entry: PendingRecord) -> bool:
        """Index ``entry``. Return True if it may be queued now, False if one with its id must be settled first."""
        record = entry.record
        # most records have none, and a call is a hundredth of what accepting one costs
        if record.custom_id is not None or record.__class__ is not CompletedRequest:
            for custom_id in client_ids(record):
                self._by_custom_id[custom_id, record.created_by] = entry
        number = record.request_id.int
        if self._head_by_id.setdefault(number, entry) is entry:
            return True
        self._queued_behind.setdefault(number, deque()).append(entry)
        return False

    def remove(self, entry: PendingRecord) -> PendingRecord | None:
        """Remove ``entry`` and return the next one with the same id, if any: it may be queued now."""
        record = entry.record
        for custom_id in client_ids(record):
            if self._by_custom_id.get((custom_id, record.created_by)) is entry:
                del self._by_custom_id[custom_id, record.created_by]
        number = record.request_id.int
        behind = self._queued_behind.get(number)
        if self._head_by_id.get(number) is not entry:
            if behind is not None and entry in behind:
                behind.remove(entry)
            return None
        del self._head_by_id[number]
        if not behind:
            return None
        following = self._head_by_id[number] = behind.popleft()
        if not behind:
            del self._queued_behind[number]
        return following

    def drop_order(self) -> None:
        """Drop the ordering among equal ids, once the queue has been emptied for good."""
        self._queued_behind.clear()

    def get(self, request_id: uuid.UUID) -> CompletedRequest | None:
        """Return the record with that id, or ``None``: of several the first, whose row it will be."""
        entry = self._head_by_id.get(request_id.int)
        return None if entry is None else entry.record

    def find(self, custom_id: str, created_by: str) -> CompletedRequest | None:
        """Return the latest record that its owner's client knows as ``custom_id``, or ``None``."""
        entry = self._by_custom_id.get((custom_id, created_by))
        return None if entry is None else entry.record


def resolve(future: asyncio.Future[None]) -> None:
    """Wake whoever waits for ``future``, unless that was done before."""
    if not future.done():
        future.set_result(None)


def retrieve(future: asyncio.Future[None]) -> None:
    """Look at the error of a future whose waiter was cancelled at the same moment: asyncio would report it."""
    if future.done() and not future.cancelled():
        future.exception()


def again(error: E) -> E:
    """Return a fresh ``error`` for one waiter: raised twice, it would grow its traceback in every waiter."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy

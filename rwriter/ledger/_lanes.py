"""The lanes of a writer: each takes one batch at a time, and its entry is written beside the batch's rows."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

from rwriter._chain.entries import MOST_LANES, Entry, Head, Kind, Outcome, ids_of, lane_of, packed, tags_of
from rwriter._chain.secret import Key
from rwriter._database_errors import sqlstate_of
from rwriter.errors import RwriterError, WriterNotOpen
from rwriter.ledger._table import found
from rwriter.records import CompletedRequest
from rwriter.store._connections import Connections

T = TypeVar("T")

_TAKEN: Final = "23505"


class Lane:
    """The last entry of one lane, as far as the writer knows.

    An attempt whose answer was lost may have written an entry: it is found when its number turns out to be taken.
    """

    def __init__(self, head: Head, key: Key, connections: Connections) -> None:
        self.head = head
        self._key: Final = key
        self._connections: Final = connections
        self._tried: Entry | None = None

    def entry_of(self, kind: Kind, records: Sequence[CompletedRequest]) -> Entry:
        """Return the next entry, for ``records`` in the order of their ids."""
        ids = packed(record.request_id for record in records)
        self._tried = self.head.followed_by(self._key, kind, ids=ids, tags=tags_of(self._key, records))
        return self._tried

    async def write(self, attempt: Callable[[], Awaitable[tuple[T, Outcome]]]) -> T | tuple[Entry, Outcome]:
        """Await ``attempt``, which writes the entry it made with ``entry_of``, and return what it returns.

        Returns the entry and its outcome where an attempt before this one has written the same.
        """
        while True:
            try:
                result, outcome = await attempt()
            except Exception as exc:
                if sqlstate_of(exc) != _TAKEN:
                    raise
                known = await self._catch_up()
                if known is None:
                    raise  # another index of the tables
                entry, outcome = known
                if entry is not None:
                    return entry, outcome
            else:
                if self._tried is not None:
                    self.head = self.head.after(self._tried, outcome)
                return result

    async def _catch_up(self) -> tuple[Entry | None, Outcome] | None:
        """Take the entry whose number was taken for the lane's head. Returns it if it is the one that was tried."""
        there = await found(self._connections, self.head.lane, self.head.seq + 1)
        if there is None:
            return None
        digest, outcome = there
        self.head = Head(self.head.lane, self.head.seq + 1, digest, outcome)
        is_ours = self._tried is not None and self._tried.digest == digest
        return (self._tried if is_ours else None), outcome


class Lanes:
    """As many lanes as there are batches under way at once."""

    def __init__(self) -> None:
        self._begun: tuple[Entry, Key] | None = None
        self._all: Final[list[Lane]] = []
        self._free: Final[list[Lane]] = []

    def begin(self, opened: Entry, key: Key) -> None:
        """Let lanes follow ``opened``, the writer's first entry."""
        self._begun = opened, key

    @contextlib.contextmanager
    def one(self, connections: Connections) -> Iterator[Lane]:
        """Take a lane for the duration of a block."""
        lane = self._free.pop() if self._free else self._another(connections)
        try:
            yield lane
        finally:
            self._free.append(lane)

    @property
    def heads(self) -> list[Head]:
        """The last entry of each lane that has one."""
        return [lane.head for lane in self._all if lane.head.seq]

    def _another(self, connections: Connections) -> Lane:
        if self._begun is None:
            msg = "the writer is not open: it has no ledger yet"
            raise WriterNotOpen(msg)
        opened, key = self._begun
        number = len(self._all) + 1
        if number > MOST_LANES:
            msg = f"a ledger has at most {MOST_LANES} flushes at once"
            raise RwriterError(msg)
        # it follows the writer's first entry, so that it is known for the writer's
        head = Head(lane_of(opened.lane, number), digest=opened.digest)
        lane = Lane(head, key, connections)
        self._all.append(lane)
        return lane


def written_by(entry: Entry, outcome: Outcome) -> frozenset[uuid.UUID]:
    """Return the ids of the rows that ``entry`` was written with."""
    return frozenset(ids_of(entry.ids)) - frozenset(ids_of(outcome.skipped))

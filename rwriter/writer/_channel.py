"""The buffer between ``send`` and the database: bounded by records and by bytes, closeable, first in first out.

No database and no tasks of its own. A record stays in the channel, charged to both bounds, until ``settle`` gives it
its fate: taking a batch only lends it out. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from rwriter.errors import ChannelFull, WriterClosed, WriterFailed, WriterForked, WriterNotOpen
from rwriter.records import CompletedRequest
from rwriter.writer._account import Account, Fate
from rwriter.writer._pending import PendingIndex, PendingRecord, again, resolve, retrieve


class Channel:
    """A bounded queue that keeps ``account``: ``capacity`` counts records, ``max_bytes`` the memory of their texts."""

    def __init__(
        self, account: Account, *, capacity: int, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity: Final = capacity
        self.max_bytes: Final = max_bytes
        self.account: Final = account
        self._clock = clock
        # raised for every new record; None while the channel accepts them
        self._refusal: WriterNotOpen | WriterClosed | None = WriterNotOpen(
            "the writer is not open: enter `async with RequestsWriter(...)`, or await wait_open() after run()"
        )
        # room taken: pending entries and senders whose room is reserved
        self._used = 0
        self._used_bytes = 0
        self._queue: deque[PendingRecord] = deque()
        self._queued_bytes = 0
        # every entry not settled, in order of acceptance. A settled one leaves at once, wherever it is: behind a flush
        # that is stuck there may be any number of them
        self._order: OrderedDict[int, PendingRecord] = OrderedDict()
        self._index: Final = PendingIndex()
        # sends that wait for room, each with its bytes: reserved when the future resolves, so that nobody can take it
        # before the sender runs. Ordered, as any of them may be cancelled: a deque would be searched for each
        self._senders: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._lingering, self._full_at = 0, (0, 0)  # takers that a record wakes only if it fills their batch
        # senders that wait for their record's fate
        self._waiting = 0
        # the number of records each of them waits for, which never falls
        self._barriers: OrderedDict[asyncio.Future[None], int] = OrderedDict()

    # -- what is in it

    @property
    def pending(self) -> int:
        """Number of records accepted and not settled."""
        return len(self._order)

    @property
    def queued(self) -> int:
        """Number of pending records that can be taken now."""
        return len(self._queue)

    @property
    def pending_bytes(self) -> int:
        """Bytes charged for pending records, and for room reserved by waking senders."""
        return self._used_bytes

    @property
    def waiting_senders(self) -> int:
        """Senders waiting for room."""
        return len(self._senders)

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest pending record was accepted."""
        return self._clock() - next(iter(self._order.values())).accepted_at if self._order else 0.0

    def get(self, request_id: uuid.UUID) -> CompletedRequest | None:
        """Return the pending record with that id, or ``None``: of several the first, whose row it will be."""
        return self._index.get(request_id)

    def find(self, custom_id: str, created_by: str) -> CompletedRequest | None:
        """Return the latest pending record that its owner's client knows as ``custom_id``, or ``None``."""
        return self._index.find(custom_id, created_by)

    # -- in

    def open(self) -> None:
        """Begin to accept records, unless the channel was closed before."""
        if not self.closed:
            self._refusal = None

    @property
    def closed(self) -> bool:
        """True once new records are refused for good."""
        return isinstance(self._refusal, WriterClosed)

    def check_accepting(self) -> None:
        """Raise ``WriterNotOpen``, ``WriterClosed`` or the failure the channel was closed with."""
        if self._refusal is not None:
            raise again(self._refusal)

    def send_nowait(self, record: CompletedRequest) -> PendingRecord:
        """Accept ``record`` or raise ``ChannelFull``. Senders already waiting come first."""
        if self._refusal is not None:
            self.check_accepting()
        size = record.text_bytes
        if self._senders or not self._fits(size):
            msg = (
                f"the buffer is full: {self.account.pending} of {self.capacity} records, {self._used_bytes} of "
                f"{self.max_bytes} bytes; await send(), or raise channel_capacity or channel_bytes"
            )
            raise ChannelFull(msg)
        self._take_room(size)
        return self.accept(record, size)

    async def wait_for_room(self, record: CompletedRequest) -> int:
        """Wait for room, take it and return its bytes, for ``accept`` or ``return_room``. Cancelled, nothing is taken.

        The size is measured once: encoding a text makes Python keep a second copy beside it, and the size grow.
        """
        self.check_accepting()
        size = record.text_bytes
        if not self._senders and self._fits(size):
            self._take_room(size)
            return size
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._senders[room] = size
        self._wake_taker()  # one that lingers for a full batch would linger for us
        try:
            await room
            # closed after the room was granted and before this task ran: refused like those still waiting
            self.check_accepting()
        except BaseException:
            if self._senders.pop(room, None) is None and not room.cancelled() and room.exception() is None:
                self._add_room(size)  # it was granted
            if self._used < self.capacity:
                self._grant()  # whoever was behind this sender may fit where it did not
            raise
        return size

    def return_room(self, size: int) -> None:
        """Give reserved room back."""
        self._add_room(size)
        self._grant()

    def accept(self, record: CompletedRequest, size: int) -> PendingRecord:
        """Put ``record`` into the queue, in the room reserved for it."""
        seq = self.account.accepted
        entry = self._order[seq] = PendingRecord(record, size, seq, self._clock())
        self.account.accepted = seq + 1
        if self._index.add(entry):
            self._enqueue(entry)
        return entry

    # -- out

    async def take(self, max_records: int, max_bytes: int, linger: float = 0.0) -> list[PendingRecord]:
        """Take the oldest queued entries, at least one; ``[]`` once the channel is closed and nothing is queued.

        Waits while nothing is queued, and with ``linger`` until a batch is full, a flush is asked for, or the oldest
        entry has waited ``linger`` seconds. Entries stay charged: ``settle`` or ``give_back`` them.
        """
        await self.wait_ready(max_records, max_bytes, linger)
        return self._pop(max_records, max_bytes)

    async def wait_ready(
        self, max_records: int, max_bytes: int, linger: float = 0.0, *, within: float = math.inf
    ) -> bool:
        """Wait, up to ``within`` seconds, until ``take`` would return at once. Returns False if it would not yet."""
        end = self._clock() + within
        self._full_at = (max_records, max_bytes)
        while (rest := self._wait_left(max_records, max_bytes, linger)) > 0:
            left = end - self._clock()
            if left <= 0:
                return False
            await self._wait_for_work(min(rest, left))
        return True

    def give_back(self, entries: Iterable[PendingRecord], *, last: bool = False) -> None:
        """Put taken entries that are not settled back: in order of acceptance, or ``last``, behind all others."""
        returned = [entry for entry in entries if entry.fate is None]
        if not returned:
            return
        if last:
            self._queue.extend(returned)
        else:
            self._queue = deque(sorted([*returned, *self._queue], key=lambda entry: entry.seq))
        self._queued_bytes += sum(entry.size for entry in returned)
        self._wake_taker()

    def take_older(self, age: float) -> list[PendingRecord]:
        """Take every queued entry that was accepted ``age`` seconds ago or earlier. As ``take``, without a wait."""
        latest = self._clock() - age
        taken = [entry for entry in self._queue if entry.accepted_at <= latest]
        self._queue = deque(entry for entry in self._queue if entry.accepted_at > latest)
        self._queued_bytes -= sum(entry.size for entry in taken)
        return taken

    def settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        """Give ``entries`` their fate, return their room and tell the senders that wait for them.

        ``error`` is raised by a ``send(wait="committed")`` of one of them. Returns how many were settled: an entry
        keeps the fate it has, as one that the drain deadline spooled or dropped while its flush was still running.
        """
        number = 0
        for entry in entries:
            if entry.fate is not None:
                continue
            entry.fate = fate
            number += 1
            del self._order[entry.seq]
            self._add_room(entry.size)
            following = self._index.remove(entry)
            if following is not None:
                self._enqueue(following)
            entry.answer(error)
        if number:
            self.account.settle(fate, number)
            self._pass_barriers()
            self._grant()
        return number

    # -- waiting for what was accepted

    async def wait_settled(self, entry: PendingRecord) -> None:
        """Return once ``entry`` is stored, or raise the error it was settled with. Cancelled, it stays accepted."""
        waiter = entry.waiter = asyncio.get_running_loop().create_future()
        self._waiting += 1
        self._wake_taker()  # as in wait_for_room
        try:
            await waiter
        finally:
            self._waiting -= 1
            retrieve(waiter)

    async def drained(self) -> None:
        """Return once everything accepted before the call is settled; raise if the consumer died meanwhile."""
        if not self._order:
            return
        self.raise_failure()
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers[barrier] = self.account.accepted
        self._wake_taker()
        try:
            await barrier
        finally:
            self._barriers.pop(barrier, None)
            retrieve(barrier)

    # -- the end

    def close(self) -> None:
        """Refuse new records and waiting senders; what is queued can still be taken."""
        if not self.closed:
            self._close_with(WriterClosed("the writer is closed: the record was not accepted"))

    def fail(self, error: WriterClosed) -> None:
        """Refuse like ``close`` because the consumer died, and raise ``error`` in everyone who waits for a record."""
        self._close_with(error)
        for barrier in self._barriers:
            if not barrier.done():
                barrier.set_exception(again(error))
        for entry in self._order.values():
            entry.answer(again(error))

    def raise_failure(self) -> None:
        """Raise the error that ``fail`` or ``refuse_after_fork`` was called with, if either was."""
        if isinstance(self._refusal, WriterFailed | WriterForked):
            raise again(self._refusal)

    def refuse_after_fork(self, refusal: WriterForked) -> None:
        """Refuse everything from now on, and wake nobody: the waiters belong to the parent process."""
        self._refusal = refusal

    def entries(self) -> list[PendingRecord]:
        """Return every pending entry, oldest first."""
        return list(self._order.values())

    def forget(self, created_by: str, until: datetime, error: Exception) -> list[PendingRecord]:
        """Settle an owner's entries that began up to ``until`` as skipped, in flight or not, and return them."""
        of_owner = [entry for entry in self._order.values() if entry.record.created_by == created_by]
        theirs = [entry for entry in of_owner if entry.record.started_at <= until]
        self.settle(theirs, "skipped", error)
        self._queue = deque(entry for entry in self._queue if entry.fate is None)
        self._queued_bytes = sum(entry.size for entry in self._queue)
        return theirs

    def drain_all(self) -> list[PendingRecord]:
        """Empty the queue and return every pending entry, for ``aclose()`` to spool or drop."""
        self._queue.clear()
        self._index.drop_order()
        self._queued_bytes = 0
        return self.entries()

    def _enqueue(self, entry: PendingRecord) -> None:
        self._queue.append(entry)
        self._queued_bytes += entry.size
        if self._takers and (not self._lingering or self._is_full(*self._full_at)):
            self._wake_taker()

    def _is_full(self, max_records: int, max_bytes: int) -> bool:
        return len(self._queue) >= max_records or self._queued_bytes >= max_bytes

    def _fits(self, size: int) -> bool:
        # a record over the byte budget passes alone, or it would wait for ever
        return self._used < self.capacity and (self._used_bytes + size <= self.max_bytes or self._used == 0)

    def _take_room(self, size: int) -> None:
        self._used += 1
        self._used_bytes += size

    def _add_room(self, size: int) -> None:
        self._used -= 1
        self._used_bytes -= size

    def _grant(self) -> None:
        while self._senders and self._fits(next(iter(self._senders.values()))):
            room, size = self._senders.popitem(last=False)
            if not room.done():
                self._take_room(size)
                room.set_result(None)

    def _wait_left(self, max_records: int, max_bytes: int, linger: float) -> float:
        """Return the seconds until there is something to take: 0 where there is, or nothing will come."""
        if self.closed:
            return 0.0
        if not self._queue:
            return math.inf
        # senders waiting for room will not fill the batch while this one holds the room they wait for
        if linger <= 0 or self._waiting or self._barriers or self._senders or self._is_full(max_records, max_bytes):
            return 0.0
        return self._queue[0].accepted_at + linger - self._clock()

    def _pop(self, max_records: int, max_bytes: int) -> list[PendingRecord]:
        taken: list[PendingRecord] = []
        size = 0
        while self._queue and len(taken) < max_records:
            head = self._queue[0]
            if taken and size + head.size > max_bytes:
                break
            taken.append(self._queue.popleft())
            size += head.size
        self._queued_bytes -= size
        if self._queue:
            self._wake_taker()
        return taken

    async def _wait_for_work(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        taker: asyncio.Future[None] = loop.create_future()
        self._takers.append(taker)
        timer = None if timeout == math.inf else loop.call_later(timeout, resolve, taker)
        lingering = bool(self._queue)
        self._lingering += lingering
        try:
            await taker
        except asyncio.CancelledError:
            if lingering or (taker.done() and not taker.cancelled()):
                # the wake-up was for this task and dies with it: hand it on
                self._wake_taker()
            raise
        finally:
            self._lingering -= lingering
            if timer is not None:
                timer.cancel()
            if taker in self._takers:
                self._takers.remove(taker)

    def _wake_taker(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    def _pass_barriers(self) -> None:
        oldest = next(iter(self._order)) if self._order else self.account.accepted
        while self._barriers and oldest >= next(iter(self._barriers.values())):
            barrier, _ = self._barriers.popitem(last=False)
            resolve(barrier)

    def _close_with(self, refusal: WriterClosed) -> None:
        self._refusal = refusal
        senders, self._senders = self._senders, OrderedDict()
        for room in senders:
            if not room.done():
                room.set_exception(again(refusal))
        while self._takers:
            self._wake_taker()

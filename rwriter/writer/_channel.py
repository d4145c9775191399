"""The buffer between ``send`` and the database: bounded by records and by bytes, closeable, first in first out.

No database and no tasks of its own. A record stays in the channel, charged to both bounds, until ``settle`` says what
became of it: taking a batch only lends it out. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from rwriter.errors import ChannelFull, WriterClosed, WriterNotOpen
from rwriter.records import CompletedRequest
from rwriter.writer._entry import Entry
from rwriter.writer._pending import PendingIndex
from rwriter.writer._telemetry import FATES, Fate


class _Sender:
    """A ``send`` waiting for room. ``granted`` room is reserved: nobody else can take it before the sender wakes."""

    __slots__ = ("future", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Channel:
    """A queue with an account. ``capacity`` counts records, ``max_bytes`` the memory their texts hold."""

    def __init__(self, *, capacity: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity: Final = capacity
        self.max_bytes: Final = max_bytes
        self._clock = clock
        self._open = False
        self._refusal: WriterClosed | None = None
        self._failure: WriterClosed | None = None
        self._accepted = 0
        self._fates: dict[Fate, int] = dict.fromkeys(FATES, 0)
        # room taken: pending entries and senders whose room is reserved
        self._used = 0
        self._used_bytes = 0
        self._queue: deque[Entry] = deque()
        self._queued_bytes = 0
        # every entry not settled, in order of acceptance. A settled one leaves at once, wherever it is: behind a flush
        # that is stuck there may be any number of them
        self._order: OrderedDict[int, Entry] = OrderedDict()
        self._index: Final = PendingIndex()
        self._senders: deque[_Sender] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []

    # -- the account

    @property
    def accepted(self) -> int:
        """Records accepted so far."""
        return self._accepted

    @property
    def fates(self) -> Mapping[Fate, int]:
        """Settled records by fate."""
        return self._fates

    @property
    def pending(self) -> int:
        """Records accepted and not settled."""
        return self._accepted - sum(self._fates.values())

    @property
    def pending_bytes(self) -> int:
        """Bytes charged for them, and for room reserved by waking senders."""
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
        """The pending record with that id: of several the first, whose row it will be."""
        return self._index.get(request_id)

    def find(self, custom_id: str, created_by: str) -> CompletedRequest | None:
        """The latest pending record that its owner's client knows as ``custom_id``."""
        return self._index.find(custom_id, created_by)

    # -- in

    def open(self) -> None:
        """Begin to accept records."""
        self._open = True

    @property
    def closed(self) -> bool:
        """Whether new records are refused."""
        return self._refusal is not None

    def check_accepting(self) -> None:
        """Raise ``WriterNotOpen``, ``WriterClosed`` or the failure the channel was closed with."""
        if self._refusal is not None:
            raise _again(self._refusal)
        if not self._open:
            msg = "the writer is not open: enter `async with RequestsWriter(...)`, or await wait_open() after run()"
            raise WriterNotOpen(msg)

    def send_nowait(self, record: CompletedRequest) -> Entry:
        """Accept ``record`` or raise ``ChannelFull``. Senders already waiting come first."""
        if self._refusal is not None or not self._open:
            self.check_accepting()
        size = record.text_bytes
        if self._senders or not self._fits(size):
            msg = (
                f"the buffer is full: {self.pending} of {self.capacity} records, {self._used_bytes} of "
                f"{self.max_bytes} bytes; await send(), or raise channel_capacity or channel_bytes"
            )
            raise ChannelFull(msg)
        self._reserve(size)
        return self.accept(record, size)

    async def send(self, record: CompletedRequest) -> Entry:
        """Accept ``record``, waiting for room. Cancelled while waiting, the record was not accepted."""
        return self.accept(record, await self.reserve(record))

    async def reserve(self, record: CompletedRequest) -> int:
        """Wait for room and take it; answers its bytes, for ``accept`` or ``free``.

        Asked for once: encoding a text makes Python keep a second copy beside it, and the size grow.
        """
        self.check_accepting()
        size = record.text_bytes
        if not self._senders and self._fits(size):
            self._reserve(size)
            return size
        sender = _Sender(size)
        self._senders.append(sender)
        self._wake_taker()  # one that lingers for a full batch would linger for us
        try:
            await sender.future
            # closed after the room was granted and before this task ran: refused like those still waiting
            self.check_accepting()
        except BaseException:
            if sender.future.done() and not sender.future.cancelled() and sender.future.exception() is None:
                self._release(size)
            elif sender in self._senders:
                self._senders.remove(sender)
            # whoever was behind this sender may fit where it did not
            self._grant()
            raise
        return size

    def free(self, size: int) -> None:
        """Give reserved room back."""
        self._release(size)
        self._grant()

    def accept(self, record: CompletedRequest, size: int) -> Entry:
        """Put ``record`` into the queue, in the room reserved for it."""
        seq = self._accepted
        entry = self._order[seq] = Entry(record, size, seq, self._clock())
        self._accepted = seq + 1
        if self._index.add(entry):
            self._enqueue(entry)
        return entry

    # -- out

    async def take(self, max_records: int, max_bytes: int, linger: float = 0.0) -> list[Entry]:
        """The oldest queued entries, at least one; ``[]`` once the channel is closed and nothing is queued.

        Waits while nothing is queued, and with ``linger`` until a batch is full, a flush is asked for, or the oldest
        entry has waited ``linger`` seconds. Entries stay charged: ``settle`` or ``give_back`` them.
        """
        while True:
            if not self._queue:
                if self._refusal is not None:
                    return []
                await self._wait_for_work(None)
                continue
            rest = self._linger_left(max_records, max_bytes, linger)
            if rest <= 0:
                return self._pop(max_records, max_bytes)
            await self._wait_for_work(rest)

    def give_back(self, entries: Iterable[Entry]) -> None:
        """Put taken entries that are not settled back at the head of the queue, in order."""
        returned = [entry for entry in entries if not entry.settled]
        if not returned:
            return
        self._queue = deque(sorted([*returned, *self._queue], key=lambda entry: entry.seq))
        self._queued_bytes += sum(entry.size for entry in returned)
        self._wake_taker()

    def settle(self, entries: Iterable[Entry], fates: Mapping[Fate, int], error: Exception | None = None) -> None:
        """Count the fates of ``entries``, free their room and tell whoever waited for them.

        ``fates`` counts the entries by fate; which of a batch were the skipped ones is not known. ``error`` is what
        a ``send(wait="committed")`` of one of them raises.
        """
        entries = [entry for entry in entries if not entry.settled]
        if not entries:
            # a flush that outlived the drain deadline: its records were already given another fate
            return
        for entry in entries:
            entry.settled = True
            del self._order[entry.seq]
            self._release(entry.size)
            following = self._index.remove(entry)
            if following is not None:
                self._enqueue(following)
            if entry.waiter is not None and not entry.waiter.done():
                if error is None:
                    entry.waiter.set_result(None)
                else:
                    entry.waiter.set_exception(error)
        for fate, number in fates.items():
            self._fates[fate] += number
        self._pass_barriers()
        self._grant()

    # -- waiting for what was accepted

    async def settled(self, entry: Entry) -> None:
        """Return once ``entry`` is stored, or raise what became of it. Cancelled, the record stays accepted."""
        waiter = entry.waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            _retrieve(waiter)

    async def drained(self) -> None:
        """Return once everything accepted before the call is settled; raise if the consumer died meanwhile."""
        if not self._order:
            return
        self.raise_failure()
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append((self._accepted, barrier))
        self._wake_taker()
        try:
            await barrier
        finally:
            self._barriers = [item for item in self._barriers if item[1] is not barrier]
            _retrieve(barrier)

    # -- the end

    def close(self) -> None:
        """Refuse new records and waiting senders; what is queued can still be taken."""
        self._refuse(WriterClosed("the writer is closed: the record was not accepted"))

    def fail(self, error: WriterClosed) -> None:
        """The consumer died: refuse like ``close``, and raise ``error`` in everyone who waits for a record."""
        self._failure = error
        self._refuse(error)
        for _, barrier in self._barriers:
            if not barrier.done():
                barrier.set_exception(_again(error))
        for entry in self._order.values():
            if entry.waiter is not None and not entry.waiter.done():
                entry.waiter.set_exception(_again(error))

    def raise_failure(self) -> None:
        """Raise what ``fail`` was called with, if it was."""
        if self._failure is not None:
            raise _again(self._failure)

    def refuse(self, refusal: WriterClosed) -> None:
        """Refuse everything from now on, and wake nobody: who waits belongs to another process."""
        self._failure = self._refusal = refusal

    def leftovers(self) -> list[Entry]:
        """Take everything still pending out of the queue, for the last word on it."""
        self._queue.clear()
        self._index.forget_order()
        self._queued_bytes = 0
        return list(self._order.values())

    # -- inside

    def _enqueue(self, entry: Entry) -> None:
        self._queue.append(entry)
        self._queued_bytes += entry.size
        if self._takers:
            self._wake_taker()

    def _fits(self, size: int) -> bool:
        # a record over the byte budget passes alone, or it would wait for ever
        return self._used < self.capacity and (self._used_bytes + size <= self.max_bytes or self._used == 0)

    def _reserve(self, size: int) -> None:
        self._used += 1
        self._used_bytes += size

    def _release(self, size: int) -> None:
        self._used -= 1
        self._used_bytes -= size

    def _grant(self) -> None:
        while self._senders and self._fits(self._senders[0].size):
            sender = self._senders.popleft()
            if not sender.future.done():
                self._reserve(sender.size)
                sender.future.set_result(None)

    def _linger_left(self, max_records: int, max_bytes: int, linger: float) -> float:
        full = len(self._queue) >= max_records or self._queued_bytes >= max_bytes
        # senders waiting for room will not fill the batch while this one holds the room they wait for
        if linger <= 0 or full or self._refusal is not None or self._barriers or self._senders:
            return 0.0
        return self._queue[0].accepted_at + linger - self._clock()

    def _pop(self, max_records: int, max_bytes: int) -> list[Entry]:
        taken: list[Entry] = []
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

    async def _wait_for_work(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        taker: asyncio.Future[None] = loop.create_future()
        self._takers.append(taker)
        timer = None if timeout is None else loop.call_later(timeout, _resolve, taker)
        try:
            await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled():
                # the wake-up was for this task and dies with it: hand it on
                self._wake_taker()
            raise
        finally:
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
        oldest = next(iter(self._order)) if self._order else self._accepted
        for target, barrier in self._barriers:
            if oldest >= target and not barrier.done():
                barrier.set_result(None)

    def _refuse(self, refusal: WriterClosed) -> None:
        self._refusal = self._failure or refusal
        senders, self._senders = self._senders, deque()
        for sender in senders:
            if not sender.future.done():
                sender.future.set_exception(_again(refusal))
        while self._takers:
            self._wake_taker()


def _again(error: WriterClosed) -> WriterClosed:
    # a fresh instance for each who hears it: one raised twice would grow its traceback in every waiter
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _retrieve(future: asyncio.Future[None]) -> None:
    # whoever was to read it was cancelled at the same moment: not an exception "never retrieved"
    if future.done() and not future.cancelled():
        future.exception()

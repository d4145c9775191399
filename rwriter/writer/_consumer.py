"""The background of an open writer: flushes, the spool's replay, the search for stale requests."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from rwriter._database_errors import describe
from rwriter.ledger import Book
from rwriter.sink import RecordSink
from rwriter.spool import Spool
from rwriter.store import RequestStore
from rwriter.store._connections import KeptConnection, keeping_connection
from rwriter.upkeep import Upkeep, keep_up
from rwriter.writer._channel import Channel
from rwriter.writer._delivery import Delivery, Outcome
from rwriter.writer._options import Options
from rwriter.writer._outage import Database, Outage
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord
from rwriter.writer._replay import Replayer

STALE_INTERVAL: Final = 60.0
"""Most seconds between two searches for stale requests."""

KEPT_IDLE: Final = 0.01
"""Seconds that a flush keeps its connection while it waits for the next batch."""

log = logging.getLogger("rwriter")


class Consumer:
    """Takes batches out of the channel until it is closed and empty."""

    def __init__(
        self,
        store: RecordSink,
        channel: Channel,
        options: Options,
        *,
        spool: Spool | None = None,
        overflow: Overflow | None = None,
        book: Book | None = None,
    ) -> None:
        self._store: Final = store
        self._channel: Final = channel
        self._overflow: Final = overflow
        self._options: Final = options
        self._outage: Final = Outage(options)
        sink, settling = (store, channel) if book is None else (book.recording("stored"), book.noting(channel))
        self._delivery: Final = Delivery(sink, settling, options, outage=self._outage, overflow=overflow)
        self._tasks: set[asyncio.Task[None]] = set()
        self._upkeep: asyncio.Task[None] | None = None
        self._replayer: Replayer | None = None
        if spool is not None and overflow is not None:
            self._replayer = Replayer(
                store if book is None else book.recording("replayed"),
                spool,
                overflow,
                options,
                outage=self._outage,
                busy=lambda: channel.pending > 0,
            )

    @property
    def retries(self) -> int:
        """Attempts repeated after a failure."""
        return self._delivery.retries

    @property
    def outage(self) -> Outage:
        """The state of the database, as the flushes find it."""
        return self._outage

    @property
    def replayed(self) -> int:
        """Records that went from the spool to the database."""
        return 0 if self._replayer is None else self._replayer.replayed

    async def run(self) -> None:
        """Consume until the channel is closed and empty.

        When it is cancelled or breaks, every entry without a fate is back in the channel.
        """
        name = self._options.name
        holding = self._replayer is None and self._options.give_up_after > 0
        flush = self._flush_batches_holding if holding else self._flush_batches
        async with asyncio.TaskGroup() as group:
            flushes = {
                group.create_task(flush(), name=f"{name}-flush-{number}")
                for number in range(self._options.flush_concurrency)
            }
            beside: list[asyncio.Task[None]] = []
            if self._replayer is not None:
                beside.append(group.create_task(self._replayer.run(), name=f"{name}-replay"))
            if self._overflow is not None:
                beside.append(group.create_task(self._watch_spool(self._overflow), name=f"{name}-spool"))
            if self._options.fail_stale_after is not None and isinstance(self._store, RequestStore):
                reaping = self._fail_stale(self._store, self._options.fail_stale_after)
                beside.append(group.create_task(reaping, name=f"{name}-fail-stale"))
            if self._options.upkeep is not None and isinstance(self._store, RequestStore) and not self._channel.closed:
                keeping_up = self._keep_up(self._store, self._options.upkeep)
                self._upkeep = group.create_task(keeping_up, name=f"{name}-upkeep")
                beside.append(self._upkeep)
            self._tasks = flushes | set(beside)
            await _all_ended(flushes)
            # these have no end of their own
            for task in beside:
                task.cancel()

    async def keep_copies(self) -> None:
        """Put a copy of every pending record into the spool, if there is one."""
        if self._overflow is not None:
            await self._overflow.copy(self._channel.entries())

    def closing(self) -> None:
        """End the upkeep. Let flushes that wait for the database see that the channel is closed, and try once more."""
        self._outage.hurry()
        if self._upkeep is not None:
            self._upkeep.cancel()

    def cancel_again(self) -> None:
        """Cancel every task that a first cancellation has not ended.

        SQLAlchemy waits two seconds for a silent peer when it closes a connection, and cancelled in that it drops it.
        A task group passes only the first cancellation on to its tasks.
        """
        for task in self._tasks:
            task.cancel()

    async def spool_or_drop(self, entries: list[PendingRecord], reason: str) -> None:
        """Spool or drop the entries that the drain did not deliver."""
        await self._delivery.spool_or_drop(entries, reason)

    async def _flush_batches(self) -> None:
        """Take batches and deliver them. While the database is away, they go to the spool."""
        async with keeping_connection() as kept:
            while entries := await self._take(kept):
                try:
                    await self._deliver_or_spool(entries)
                finally:
                    # cancelled or broken in the middle: entries without a fate are queued again
                    self._channel.give_back(entries)

    async def _flush_batches_holding(self) -> None:
        """Take batches and deliver them. While the database is away, they wait in the buffer and one flush asks."""
        async with keeping_connection() as kept:
            while await self._flush_or_ask(kept):
                if self._outage.absent_for >= self._options.give_up_after:
                    await self._give_up()

    async def _flush_or_ask(self, kept: KeptConnection) -> bool:
        """Deliver a batch, or ask whether the database is back. Returns False once there will be no more batches."""
        if self._outage.state is not Database.UP:
            # for nobody knows how long
            await kept.give_back()
        async with self._outage.turn(done=self._is_done) as probing:
            if probing and not self._channel.queued:
                # nothing to probe with, and nothing may come as long as the service says that it is not ready
                await self._delivery.ask()
                return True
            if not (entries := await self._take(kept)):
                return False
            if not probing and self._outage.state is not Database.UP:
                # it went while this flush waited for a batch
                self._channel.give_back(entries)
                return True
            outcome = None
            try:
                outcome = await self._delivery.deliver(entries)
            finally:
                # behind the others, if refused: they may tell whether a record of this batch is to blame
                self._channel.give_back(entries, last=outcome is Outcome.REFUSING)
        return True

    async def _give_up(self) -> None:
        """Drop what has waited for ``give_up_after``, in an outage that lasts as long."""
        limit = self._options.give_up_after
        overdue = self._channel.take_older(limit)
        reason = f"the database has been away for {limit:g} s, {self._outage.error}"
        try:
            await self._delivery.spool_or_drop(overdue, reason)
        finally:
            self._channel.give_back(overdue)

    def _is_done(self) -> bool:
        return self._channel.closed and not self._channel.pending

    async def _take(self, kept: KeptConnection) -> list[PendingRecord]:
        options = self._options
        bounds = (options.batch_size, options.batch_bytes, options.linger)
        if kept.is_held:
            await self._keep_or_give_back(kept, *bounds)
        return await self._channel.take(*bounds)

    async def _keep_or_give_back(self, kept: KeptConnection, max_records: int, max_bytes: int, linger: float) -> None:
        """Keep the connection if the next batch is ready at once, and no other flush may want for one."""
        wanted = self._outage.someone_retries
        # counted until the pool has it: a flush that is refused a connection meanwhile is to wait
        with self._outage.keeping():
            if wanted or not await self._channel.wait_ready(max_records, max_bytes, linger, within=KEPT_IDLE):
                await kept.give_back()

    async def _deliver_or_spool(self, entries: list[PendingRecord]) -> None:
        if self._replayer is None:
            await self._delivery.deliver(entries)
            return
        with self._outage.attempt() as allowed:
            if allowed:
                await self._delivery.deliver(entries)
            else:
                await self._delivery.spool_or_drop(entries, "the database is away")

    async def _keep_up(self, store: RequestStore, upkeep: Upkeep) -> None:
        name = self._options.name
        await keep_up(upkeep, store, name=name, is_up=lambda: self._outage.state is Database.UP)

    async def _watch_spool(self, overflow: Overflow) -> None:
        try:
            while True:
                await overflow.look()
                await asyncio.sleep(self._options.replay_interval)
        finally:
            # of a writer that is closed the gauges tell nothing, and nothing that is old
            overflow.standing = None

    async def _fail_stale(self, store: RequestStore, after: float) -> None:
        while True:
            try:
                async with asyncio.timeout(self._options.flush_timeout):
                    number = await store.fail_stale(timedelta(seconds=after))
            except Exception as exc:  # noqa: BLE001 -- housekeeping: the next round will do
                log.warning("%s: could not look for stale requests: %s", self._options.name, describe(exc))
            else:
                if number:
                    log.warning("%s: failed %d requests stuck in processing", self._options.name, number)
            await asyncio.sleep(min(after, STALE_INTERVAL))


async def _all_ended(flushes: set[asyncio.Task[None]]) -> None:
    while flushes:
        ended, flushes = await asyncio.wait(flushes, return_when=asyncio.FIRST_COMPLETED)
        if any(task.cancelled() for task in ended):
            # a TaskGroup forgets a child that somebody cancels; the others would go on with one flush less
            msg = "a flush task was cancelled"
            raise RuntimeError(msg)

"""The background of an open writer: flushes, the spool's replay, the search for stale requests."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from rwriter._database_errors import describe
from rwriter.spool import Spool
from rwriter.store import RequestStore
from rwriter.writer._channel import Channel
from rwriter.writer._delivery import Delivery
from rwriter.writer._options import Options
from rwriter.writer._outage import Outage
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord
from rwriter.writer._replay import Replayer

STALE_INTERVAL: Final = 60.0
"""Most seconds between two searches for stale requests."""

log = logging.getLogger("rwriter")


class Consumer:
    """Takes batches out of the channel until it is closed and empty."""

    def __init__(
        self,
        store: RequestStore,
        channel: Channel,
        options: Options,
        *,
        spool: Spool | None = None,
        overflow: Overflow | None = None,
    ) -> None:
        self._store: Final = store
        self._channel: Final = channel
        self._options: Final = options
        self._outage: Final = Outage(options.name)
        self._delivery: Final = Delivery(store, channel, options, outage=self._outage, overflow=overflow)
        self._tasks: set[asyncio.Task[None]] = set()
        self._replayer: Replayer | None = None
        if spool is not None and overflow is not None:
            self._replayer = Replayer(
                store, spool, overflow, options, outage=self._outage, busy=lambda: channel.pending > 0
            )

    @property
    def retries(self) -> int:
        """Attempts repeated after a failure."""
        return self._delivery.retries

    @property
    def replayed(self) -> int:
        """Records that went from the spool to the database."""
        return 0 if self._replayer is None else self._replayer.replayed

    async def run(self) -> None:
        """Consume until the channel is closed and empty.

        When it is cancelled or breaks, every entry without a fate is back in the channel.
        """
        name = self._options.name
        async with asyncio.TaskGroup() as group:
            flushes = {
                group.create_task(self._flush_batches(), name=f"{name}-flush-{number}")
                for number in range(self._options.flush_concurrency)
            }
            beside: list[asyncio.Task[None]] = []
            if self._replayer is not None:
                beside.append(group.create_task(self._replayer.run(), name=f"{name}-replay"))
            if self._options.fail_stale_after is not None:
                reaping = self._fail_stale(self._options.fail_stale_after)
                beside.append(group.create_task(reaping, name=f"{name}-fail-stale"))
            self._tasks = flushes | set(beside)
            await _all_ended(flushes)
            # these two have no end of their own
            for task in beside:
                task.cancel()

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
        bounds = (self._options.batch_size, self._options.batch_bytes, self._options.linger)
        while entries := await self._channel.take(*bounds):
            try:
                await self._deliver(entries)
            finally:
                # cancelled or broken in the middle: entries without a fate are queued again
                self._channel.give_back(entries)

    async def _deliver(self, entries: list[PendingRecord]) -> None:
        if self._replayer is None:
            await self._delivery.deliver(entries)
            return
        with self._outage.attempt() as allowed:
            if allowed:
                await self._delivery.deliver(entries)
            else:
                await self._delivery.spool_or_drop(entries, "the database is away")

    async def _fail_stale(self, after: float) -> None:
        while True:
            try:
                async with asyncio.timeout(self._options.flush_timeout):
                    number = await self._store.fail_stale(timedelta(seconds=after))
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

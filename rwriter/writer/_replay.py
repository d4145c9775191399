"""Out of the spool again: oldest first, beside live traffic, each row given up only after its commit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from rwriter._database_errors import backoff, describe
from rwriter.spool import Spool, SpooledRecord
from rwriter.store import RequestStore
from rwriter.writer._delivery import Delivery
from rwriter.writer._entry import Entry
from rwriter.writer._options import Options
from rwriter.writer._outage import Outage
from rwriter.writer._telemetry import Fate

log = logging.getLogger("rwriter")


class SpoolOverflow:
    """The spool as the last resort of a ``Delivery``. Journaled entries have their copy there already."""

    def __init__(self, spool: Spool) -> None:
        self._spool: Final = spool
        self.kept = asyncio.Event()

    async def keep(self, entries: Sequence[Entry]) -> None:
        """New entries are put into the spool, journaled ones given back to it."""
        new = [entry.record for entry in entries if entry.spool_seq is None]
        journaled = [entry.spool_seq for entry in entries if entry.spool_seq is not None]
        if new:
            await self._spool.put(new)
        if journaled:
            try:
                await self._spool.release(journaled)
            except Exception as exc:  # noqa: BLE001 -- they are on disk, and given back before the next claim
                log.warning("cannot give records back to the spool yet: %s", describe(exc))
        for entry in entries:
            entry.spool_seq = None
        self.kept.set()

    async def landed(self, entries: Sequence[Entry]) -> None:
        """Forget the copies of entries that have their last fate."""
        seqs = [entry.spool_seq for entry in entries if entry.settled and entry.spool_seq is not None]
        if not seqs:
            return
        try:
            await self._spool.remove(seqs)
        except Exception as exc:  # noqa: BLE001 -- the row stays and is replayed once more, which changes nothing
            log.warning("cannot remove stored records from the spool: %s", describe(exc))

    async def set_aside(self, entry: Entry, reason: str) -> bool:
        """Move the copy to where it is never replayed."""
        if entry.spool_seq is None:
            return False
        await self._spool.set_aside([entry.spool_seq], reason)
        entry.spool_seq = None
        return True


class Replayed:
    """The ledger of the replay: these records had their fate, spooled, in the writer's own account."""

    def __init__(self) -> None:
        self.count = 0

    def settle(self, entries: Sequence[Entry], fates: Mapping[Fate, int], error: Exception | None = None) -> None:  # noqa: ARG002
        """Count those that reached the database."""
        for entry in entries:
            entry.settled = True
        self.count += sum(fates.get(fate, 0) for fate in ("persisted", "skipped", "dead"))


class Replayer:
    """Replays a spool while its writer lives. In an outage its one batch at a time is the probe."""

    def __init__(
        self,
        store: RequestStore,
        spool: Spool,
        overflow: SpoolOverflow,
        options: Options,
        *,
        outage: Outage,
        busy: Callable[[], bool],
    ) -> None:
        self._spool: Final = spool
        self._overflow: Final = overflow
        self._options: Final = options
        self._outage: Final = outage
        self._busy: Final = busy
        self._ledger: Final = Replayed()
        self._unreadable = False
        self._delivery: Final = Delivery(
            store,
            self._ledger,
            msgspec.structs.replace(options, max_retries=0),
            outage=outage,
            overflow=overflow,
            probes=True,
        )

    @property
    def replayed(self) -> int:
        """Records that went from the spool to the database."""
        return self._ledger.count

    async def run(self) -> None:
        """Replay what is there, wait for more, for ever; cancel it to stop."""
        failures = 0
        while True:
            started = time.monotonic()
            answered = await self._replay_batch()
            if answered is None:
                # nothing to probe with: the next live batch will
                self._outage.away = False
                await self._wait_for_rows()
            elif answered:
                failures = 0
                if self._busy():
                    # at most half of one connection's time beside live traffic
                    await asyncio.sleep(time.monotonic() - started)
            else:
                await asyncio.sleep(
                    backoff(failures, base=self._options.retry_base_delay, maximum=self._options.retry_max_delay)
                )
                failures += 1

    async def _replay_batch(self) -> bool | None:
        """Whether the database answered; ``None`` when there was nothing to replay."""
        self._overflow.kept.clear()
        try:
            rows = await self._spool.claim(self._options.batch_size, self._options.batch_bytes)
        except Exception as exc:  # noqa: BLE001 -- a broken disk must not stop the writer
            if not self._unreadable:
                log.error("cannot read the spool in %s: %s", self._spool.directory, describe(exc))
            self._unreadable = True
            return None
        self._unreadable = False
        return await self._delivery.deliver([_entry(row) for row in rows]) if rows else None

    async def _wait_for_rows(self) -> None:
        # rows of other processes announce themselves to nobody: looked for at intervals
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.replay_interval):
                await self._overflow.kept.wait()


def _entry(row: SpooledRecord) -> Entry:
    entry = Entry(row.record, row.record.text_bytes, row.seq, row.spooled_at)
    entry.spool_seq = row.seq
    return entry

"""Out of the spool again: oldest first, beside live traffic, each row removed only after its commit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from rwriter._database_errors import backoff, describe
from rwriter.errors import RwriterError
from rwriter.sink import RecordSink
from rwriter.spool import Spool, SpooledRecord
from rwriter.writer._account import Fate
from rwriter.writer._delivery import Delivery, Outcome
from rwriter.writer._options import Options
from rwriter.writer._outage import Database, Outage
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord

REMEMBERED: Final = 10_000
"""Most refused rows of the spool whose first refusal is remembered."""

log = logging.getLogger("rwriter")


class _ReplayCounter:
    """Counts replayed records. They already count as ``spooled`` in the writer's stats, or in another process's."""

    def __init__(self) -> None:
        self.count = 0

    def settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        """Give ``entries`` their fate, and count those that reached the database."""
        settled = [entry for entry in entries if entry.fate is None]
        for entry in settled:
            entry.fate = fate
            entry.answer(error)
        if fate in {"persisted", "skipped", "dead"}:
            self.count += len(settled)
        return len(settled)


class Replayer:
    """Replays a spool while its writer lives. In an outage its one batch at a time is the probe."""

    def __init__(
        self,
        store: RecordSink,
        spool: Spool,
        overflow: Overflow,
        options: Options,
        *,
        outage: Outage,
        busy: Callable[[], bool],
    ) -> None:
        self._store: Final = store
        self._spool: Final = spool
        self._overflow: Final = overflow
        self._options: Final = options
        self._outage: Final = outage
        self._busy: Final = busy
        self._counter: Final = _ReplayCounter()
        self._unreadable = False
        # the last row that was passed by because its batch was refused, and when each of them was refused first
        self._passed = 0
        self._refused_at: Final[dict[int, int]] = {}
        self._delivery: Final = Delivery(
            store,
            self._counter,
            msgspec.structs.replace(options, max_retries=0),
            outage=outage,
            overflow=overflow,
            replaying=True,
        )

    @property
    def replayed(self) -> int:
        """Records that went from the spool to the database."""
        return self._counter.count

    async def run(self) -> None:
        """Replay the rows that are there and wait for more, until cancelled."""
        failures = 0
        while True:
            started = time.monotonic()
            answered = await self._replay_batch()
            if answered is None:
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
        """Replay one batch. Returns True if the database answered; None when there was nothing to replay."""
        self._overflow.kept.clear()
        if self._outage.is_probed:
            return False
        if not self._spool.is_stamped:
            return await self._stamp()
        # Claimed before the attempt begins: a spool that cannot be read would otherwise hold the one probe again and
        # again, and no live batch would ever find out that the database is back.
        rows = await self._claim()
        if not rows:
            return await self._probe_without_rows()
        entries = [self._claimed(row) for row in rows]
        with self._outage.attempt(replaying=True) as allowed:
            if allowed:
                outcome = await self._delivery.deliver(entries)
                self._pass_by(entries, outcome)
                return outcome is Outcome.ANSWERED
            await self._delivery.spool_or_drop(entries, "a live batch probes the database")
            return False

    async def _stamp(self) -> bool:
        """Ask the database who it is. Of a spool that is another's, only this writer's own records are replayed."""
        with self._outage.attempt(replaying=True) as allowed:
            if not allowed:
                return False
            try:
                async with asyncio.timeout(self._options.flush_timeout):
                    identity = await self._store.identity()
            except Exception as exc:  # noqa: BLE001 -- the database is away: asked again
                self._outage.retries_spent(exc)
                return False
            self._outage.database_answered()
        try:
            await self._spool.belongs_to(identity)
        except RwriterError as exc:
            log.error("%s: nothing is replayed but records of its own, %s", self._options.name, exc)
        return self._spool.is_stamped

    async def _probe_without_rows(self) -> bool | None:
        self._outage.nothing_to_replay()
        if self._outage.state is Database.UP:
            return None
        # nothing may come to be spooled as long as the service says that it is not ready
        with self._outage.attempt(replaying=True) as allowed:
            return None if allowed and await self._delivery.ask() else False

    def _claimed(self, row: SpooledRecord) -> PendingRecord:
        entry = self._overflow.claimed(row)
        entry.refused_at = self._refused_at.get(row.seq)
        return entry

    def _pass_by(self, entries: Sequence[PendingRecord], outcome: Outcome) -> None:
        """Go on behind a batch that was refused as a whole: nothing waits for it, and others may tell why."""
        left = {entry.seq: entry.refused_at for entry in entries if entry.fate == "spooled"}
        if outcome is Outcome.REFUSING and left:
            if not self._refused_at:
                log.warning(
                    "%s: %d records of the spool are refused; going on behind them", self._options.name, len(left)
                )
            self._passed = entries[-1].seq
        for entry in entries:
            self._refused_at.pop(entry.seq, None)
        self._refused_at.update({seq: at for seq, at in left.items() if at is not None})
        while len(self._refused_at) > REMEMBERED:
            del self._refused_at[next(iter(self._refused_at))]

    async def _claim(self) -> Sequence[SpooledRecord]:
        """Claim the oldest rows, or those behind the ones passed by; then it begins with the oldest again."""
        if self._passed:
            rows = await self._claim_after(self._passed)
            if rows:
                return rows
            self._passed = 0
        return await self._claim_after(0)

    async def _claim_after(self, seq: int) -> Sequence[SpooledRecord]:
        try:
            rows = await self._spool.claim(self._options.batch_size, self._options.batch_bytes, after=seq)
        except Exception as exc:  # noqa: BLE001 -- a broken disk must not stop the writer
            if not self._unreadable:
                log.error("cannot read the spool in %s: %s", self._spool.directory, describe(exc))
            self._unreadable = True
            return ()
        self._unreadable = False
        return rows

    async def _wait_for_rows(self) -> None:
        # rows of other processes announce themselves to nobody: looked for at intervals
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.replay_interval):
                await self._overflow.kept.wait()

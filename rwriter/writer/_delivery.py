"""From a batch to the fate of each of its records: attempts, backoff, the search for a bad record, the last resort."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar
from uuid import UUID

from rwriter._database_errors import Kind, backoff, describe, failure_of, server_message, sqlstate_of
from rwriter.errors import RecordDropped, RecordRejected, RecordSkipped, RecordSpooled
from rwriter.store import RequestStore
from rwriter.writer import _telemetry as telemetry
from rwriter.writer._account import Fate
from rwriter.writer._bisection import halving_search
from rwriter.writer._options import Options
from rwriter.writer._outage import Outage
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord

T = TypeVar("T")

log = logging.getLogger("rwriter")


class Settling(Protocol):
    """Takes the fates of records: the channel, or the spool's replay."""

    def settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        """Give ``entries`` their fate and return how many had none before.

        ``error`` is raised in a sender that waits for one of them.
        """


class _Refused(Exception):
    """The database refused at least one of the records of a statement."""


class _RetriesSpent(Exception):
    """The database stayed away through every retry."""


class Delivery:
    """Delivers batches. Every entry handed to ``deliver`` is settled when it returns."""

    def __init__(
        self,
        store: RequestStore,
        settling: Settling,
        options: Options,
        *,
        outage: Outage,
        overflow: Overflow | None = None,
    ) -> None:
        self.retries = 0
        self._store: Final = store
        self._settling: Final = settling
        self._options: Final = options
        self._name: Final = options.name
        self._outage: Final = outage
        self._overflow: Final = overflow

    async def deliver(self, entries: Sequence[PendingRecord]) -> bool:
        """Deliver a batch: store it, move refused records to ``dead_letters``, or spool or drop it.

        Returns True if the database answered. Cancelled, entries not settled are the caller's.
        """
        started = time.monotonic()
        answered = True
        with telemetry.flush_span(self._name, len(entries)) as span:
            try:
                refusal = await self._persist(entries)
                if refusal is not None:
                    telemetry.flush_failed(span, describe(refusal))
                    await self._isolate(entries, refusal)
            except _RetriesSpent as spent:
                answered = False
                self._outage.retries_spent()
                reason = describe(_cause(spent))
                telemetry.flush_failed(span, reason)
                await self.spool_or_drop([entry for entry in entries if entry.fate is None], reason)
        if self._overflow is not None:
            await self._overflow.discard_copies(entries)
        telemetry.flush_done(self._name, len(entries), time.monotonic() - started)
        return answered

    async def spool_or_drop(self, entries: Sequence[PendingRecord], reason: str) -> None:
        """Put ``entries`` into the spool; drop and count those that find no room there, or all without a spool."""
        lost = list(entries)
        if self._overflow is not None:
            lost, error = await self._overflow.keep(entries)
            homeless = set(lost)
            kept = [entry for entry in entries if entry not in homeless]
            self._settle(kept, "spooled", RecordSpooled(f"in the spool: {reason}"))
            if error is not None:
                reason = f"{reason}; spool: {describe(error)}"
        if number := self._settle(lost, "dropped", RecordDropped(f"dropped: {reason}")):
            self._outage.dropped(number, reason)

    async def _persist(self, entries: Sequence[PendingRecord]) -> Exception | None:
        """Store and settle ``entries``, and return None.

        If the database refuses the statement, settle nothing and return the refusal; the caller searches for the bad
        record.
        """
        records = [entry.record for entry in entries]
        try:
            result = await self._retrying(lambda: self._store.persist_completed(records))
        except _Refused as refused:
            return _cause(refused)
        if not result.skipped:
            self._settle(entries, "persisted")
            return None
        # of several with one id, in a batch of the replay, the first has the row
        unclaimed = set(result.written)
        written: list[PendingRecord] = []
        skipped: list[PendingRecord] = []
        for entry in entries:
            request_id = entry.record.request_id
            (written if request_id in unclaimed else skipped).append(entry)
            unclaimed.discard(request_id)
        self._settle(written, "persisted")
        await self._settle_skipped(skipped)
        return None

    async def _settle_skipped(self, skipped: Sequence[PendingRecord]) -> None:
        """Settle records whose row was there before. A waiting sender hears of an error unless it is a redelivery."""
        waiting = [entry for entry in skipped if entry.waiter is not None]
        self._settle([entry for entry in skipped if entry.waiter is None], "skipped")
        if not waiting:
            return
        finished: set[UUID] = set()
        try:
            finished |= await self._retrying(
                lambda: self._store.finished_ids(entry.record.request_id for entry in waiting)
            )
        except (_RetriesSpent, _Refused) as exc:
            log.warning("%s: could not look up skipped records: %s", self._name, describe(_cause(exc)))
        for entry in waiting:
            request_id = entry.record.request_id
            foreign = RecordSkipped(f"a row {request_id} exists that is not the writer's")
            self._settle([entry], "skipped", None if request_id in finished else foreign)

    async def _isolate(self, entries: Sequence[PendingRecord], refusal: Exception) -> None:
        """Find the bad records among ``entries``, which were refused together, and store the others."""
        search = halving_search(entries)
        accepted: bool | None = None
        with contextlib.suppress(StopIteration):
            while True:
                step = search.send(accepted)
                if step.is_bad:
                    await self._bury(step.items[0], refusal)
                    continue
                answer = await self._persist(step.items)
                accepted = answer is None
                refusal = refusal if answer is None else answer

    async def _bury(self, entry: PendingRecord, refusal: Exception) -> None:
        record, sqlstate, reason = entry.record, sqlstate_of(refusal), describe(refusal)
        error = server_message(refusal)
        try:
            await self._retrying(lambda: self._store.bury(record, sqlstate=sqlstate, error=error))
        except _Refused as refused:
            reason = f"{reason}; dead_letters: {describe(_cause(refused))}"
            kept = self._overflow is not None and await self._overflow.set_aside(entry, reason)
            ending = "set aside in the spool" if kept else "dropped"
            log.error("%s: record %s %s: %s", self._name, record.request_id, ending, reason)
            self._settle([entry], "dropped", RecordDropped(f"{ending}: {reason}"))
            return
        log.error("%s: record %s is in dead_letters: %s", self._name, record.request_id, reason)
        self._settle([entry], "dead", RecordRejected(f"in dead_letters: {reason}"))

    async def _retrying(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Await ``operation`` until it succeeds, is refused, or the retries are spent."""
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(self._options.flush_timeout):
                    result = await operation()
            except Exception as exc:
                if failure_of(exc) is Kind.DATA:
                    self._outage.database_answered()
                    raise _Refused from exc
                self._outage.attempt_failed(exc)
                if attempt >= self._options.max_retries:
                    telemetry.count_retry(self._name, "exhausted")
                    raise _RetriesSpent from exc
            else:
                self._outage.database_answered()
                return result
            self.retries += 1
            telemetry.count_retry(self._name, "retried")
            await asyncio.sleep(
                backoff(attempt, base=self._options.retry_base_delay, maximum=self._options.retry_max_delay)
            )
            attempt += 1

    def _settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        number = self._settling.settle(entries, fate, error)
        telemetry.count(self._name, fate, number)
        return number


def _cause(exc: BaseException) -> Exception:
    cause = exc.__cause__
    return cause if isinstance(cause, Exception) else RuntimeError(type(exc).__name__)

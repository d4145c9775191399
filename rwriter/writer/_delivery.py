"""From a batch to the fate of each of its records: attempts, backoff, the search for a bad record, the last resort."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from rwriter._database_errors import Kind, backoff, describe, failure_of, server_message, sqlstate_of
from rwriter.errors import RecordDropped, RecordRejected, RecordSkipped, RecordSpooled
from rwriter.records import CompletedRequest
from rwriter.store import RequestStore
from rwriter.writer import _telemetry as telemetry
from rwriter.writer._entry import Entry
from rwriter.writer._options import Options
from rwriter.writer._outage import Outage
from rwriter.writer._telemetry import Fate

T = TypeVar("T")

log = logging.getLogger("rwriter")


class Ledger(Protocol):
    """Where fates are booked: the channel, or the spool's replay."""

    def settle(self, entries: Sequence[Entry], fates: Mapping[Fate, int], error: Exception | None = None) -> None:
        """Book the fates of ``entries``; ``error`` is what a sender waiting for one of them hears."""


class Overflow(Protocol):
    """Where batches go when the database stays away: the spool."""

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Keep ``entries`` durably, or raise and keep none."""

    async def landed(self, entries: Sequence[Entry]) -> None:
        """``entries`` have their last fate: copies of them are needed no more."""

    async def set_aside(self, entry: Entry, reason: str) -> bool:
        """Keep the copy of a record that even ``dead_letters`` refuses, if there is one. Whether there was."""


class _Refused(Exception):
    """The database refused at least one of the records of a statement."""


class _RetriesSpent(Exception):
    """The database stayed away through every retry."""


class Delivery:
    """Delivers batches for one ledger. Every entry handed to ``deliver`` is settled when it returns."""

    def __init__(
        self,
        store: RequestStore,
        ledger: Ledger,
        options: Options,
        *,
        outage: Outage,
        overflow: Overflow | None = None,
        probes: bool = False,
    ) -> None:
        self.retries = 0
        self._store: Final = store
        self._ledger: Final = ledger
        self._options: Final = options
        self._name: Final = options.name
        self._outage: Final = outage
        self._overflow: Final = overflow
        self._probes: Final = probes

    async def deliver(self, entries: Sequence[Entry]) -> bool:
        """Store ``entries``, bury the bad ones, or give up on them. Whether the database answered.

        Cancelled, entries not settled are the caller's.
        """
        if self._outage.away and self._overflow is not None and not self._probes:
            # the replay finds out when the database is back; a try per batch would be a storm of them
            await self.give_up(entries, "the database is away")
            return False
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
                self._outage.away = True
                telemetry.flush_failed(span, describe(_cause(spent)))
                await self.give_up([entry for entry in entries if not entry.settled], describe(_cause(spent)))
        if self._overflow is not None:
            await self._overflow.landed(entries)
        telemetry.flush_done(self._name, len(entries), time.monotonic() - started)
        return answered

    async def give_up(self, entries: Sequence[Entry], reason: str) -> None:
        """The last resort: to the spool, or dropped and counted."""
        # apart, or journaled records, which are on disk, would be dropped with others that find no room there
        journaled = [entry for entry in entries if entry.spool_seq is not None]
        for group in (journaled, [entry for entry in entries if entry.spool_seq is None]):
            if group:
                await self._give_up_alike(group, reason)

    async def _give_up_alike(self, entries: Sequence[Entry], reason: str) -> None:
        if self._overflow is not None:
            try:
                await self._overflow.keep(entries)
            except Exception as exc:  # noqa: BLE001 -- a full disk must not stop the writer
                reason = f"{reason}; spool: {describe(exc)}"
            else:
                self._settle(entries, {"spooled": len(entries)}, RecordSpooled(f"in the spool: {reason}"))
                return
        self._settle(entries, {"dropped": len(entries)}, RecordDropped(f"dropped: {reason}"))
        self._outage.dropped(len(entries), reason)

    async def _persist(self, entries: Sequence[Entry]) -> Exception | None:
        """Store and settle ``entries``; a refusal settles none and is returned, as it is the start of a search."""
        records = [entry.record for entry in entries]
        try:
            result = await self._retrying(lambda: self._store.persist_completed(records))
        except _Refused as refused:
            return _cause(refused)
        fates: dict[Fate, int] = {"persisted": result.inserted + result.updated, "skipped": result.skipped}
        if not result.skipped:
            self._settle(entries, fates)
            return None
        waiting = [(entry.record, entry.waiter) for entry in entries if entry.waiter is not None]
        for entry in entries:
            entry.waiter = None
        self._settle(entries, fates)
        if waiting:
            await self._answer_skipped(waiting)
        return None

    async def _answer_skipped(self, waiting: Sequence[tuple[CompletedRequest, asyncio.Future[None]]]) -> None:
        """Tell a redelivery, whose row is there, from a row the writer may not touch."""
        finished: set[object] = set()
        try:
            finished |= await self._retrying(lambda: self._store.finished_ids(r.request_id for r, _ in waiting))
        except (_RetriesSpent, _Refused) as exc:
            log.warning("%s: could not look up skipped records: %s", self._name, describe(_cause(exc)))
        finally:
            for record, waiter in waiting:
                if waiter.done():
                    continue
                if record.request_id in finished:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(RecordSkipped(f"a row {record.request_id} exists that is not the writer's"))

    async def _isolate(self, entries: Sequence[Entry], refusal: Exception) -> None:
        """Find the bad records among ``entries``, which were refused together, and store the others.

        A halving search whose probes store what is good. When one half goes in, the other must hold the bad record,
        and what a failed probe leaves aside is tried as a whole once that is found: a single bad record among n costs
        log2(n) probes and one statement for the rest. Where bad records are dense, probes go record by record.
        """
        suspects = list(entries)
        good = bad = 0
        while suspects:
            rest: list[Entry] = []
            while len(suspects) > 1:
                size = 1 if good < bad else len(suspects) // 2
                probe, others = suspects[:size], suspects[size:]
                answer = await self._persist(probe)
                if answer is None:
                    good += size
                    suspects = others
                else:
                    refusal, suspects, rest = answer, probe, others + rest
            await self._bury(suspects[0], refusal)
            bad += 1
            suspects = []
            if rest and (answer := await self._persist(rest)) is not None:
                refusal, suspects = answer, rest

    async def _bury(self, entry: Entry, refusal: Exception) -> None:
        record, sqlstate, reason = entry.record, sqlstate_of(refusal), describe(refusal)
        error = server_message(refusal)
        try:
            await self._retrying(lambda: self._store.bury(record, sqlstate=sqlstate, error=error))
        except _Refused as refused:
            reason = f"{reason}; dead_letters: {describe(_cause(refused))}"
            kept = self._overflow is not None and await self._overflow.set_aside(entry, reason)
            what = "set aside in the spool" if kept else "dropped"
            log.error("%s: record %s %s: %s", self._name, record.request_id, what, reason)
            self._settle([entry], {"dropped": 1}, RecordDropped(f"{what}: {reason}"))
            return
        log.error("%s: record %s is in dead_letters: %s", self._name, record.request_id, reason)
        self._settle([entry], {"dead": 1}, RecordRejected(f"in dead_letters: {reason}"))

    async def _retrying(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Await ``operation`` until it succeeds, is refused, or the retries are spent."""
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(self._options.flush_timeout):
                    result = await operation()
            except Exception as exc:
                if failure_of(exc) is Kind.DATA:
                    self._outage.over()
                    raise _Refused from exc
                self._outage.attempt_failed(exc)
                if attempt >= self._options.max_retries:
                    telemetry.count_retry(self._name, "exhausted")
                    raise _RetriesSpent from exc
            else:
                self._outage.over()
                return result
            self.retries += 1
            telemetry.count_retry(self._name, "retried")
            await asyncio.sleep(
                backoff(attempt, base=self._options.retry_base_delay, maximum=self._options.retry_max_delay)
            )
            attempt += 1

    def _settle(self, entries: Sequence[Entry], fates: Mapping[Fate, int], error: Exception | None = None) -> None:
        left = [entry for entry in entries if not entry.settled]
        if not left:
            # a flush that outlived the drain deadline: its records were already given another fate
            return
        if len(left) < len(entries):
            # the same, for some of them: which ones were skipped is not known
            fates = {next(iter(fates)): len(left)}
        for fate, number in fates.items():
            telemetry.count(self._name, fate, number)
        self._ledger.settle(left, fates, error)


def _cause(exc: BaseException) -> Exception:
    cause = exc.__cause__
    return cause if isinstance(cause, Exception) else RuntimeError(type(exc).__name__)

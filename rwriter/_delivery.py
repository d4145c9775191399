"""From a batch to the fate of each of its records: attempts, backoff, the search for a bad record, the last resort."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from rwriter import telemetry
from rwriter._channel import Channel, Entry
from rwriter._failures import Kind, backoff, describe, failure_of, fix_for, server_message, sqlstate_of
from rwriter.errors import RecordDropped, RecordRejected, RecordSkipped, RecordSpooled
from rwriter.records import CompletedRequest
from rwriter.store import RequestStore
from rwriter.telemetry import Fate

T = TypeVar("T")

log = logging.getLogger("rwriter")


class Overflow(Protocol):
    """Where batches go when the database stays away: the spool."""

    async def put(self, records: Sequence[CompletedRequest]) -> None:
        """Keep ``records`` durably, or raise and keep none."""


class _Refused(Exception):
    """The database refused at least one of the records of a statement."""


class _RetriesSpent(Exception):
    """The database stayed away through every retry."""


class Delivery:
    """Delivers batches of one writer. Every entry handed to ``deliver`` is settled when it returns."""

    def __init__(  # noqa: PLR0913 -- the writer's own options, keyword-only
        self,
        store: RequestStore,
        channel: Channel,
        *,
        name: str,
        max_retries: int,
        retry_base_delay: float,
        retry_max_delay: float,
        flush_timeout: float,
        spool: Overflow | None,
    ) -> None:
        self.retries = 0
        self._store: Final = store
        self._channel: Final = channel
        self._name: Final = name
        self._max_retries: Final = max_retries
        self._retry_base_delay: Final = retry_base_delay
        self._retry_max_delay: Final = retry_max_delay
        self._flush_timeout: Final = flush_timeout
        self._spool: Final = spool
        self._outage_logged = False
        self._given_up_in_outage = 0

    async def deliver(self, entries: Sequence[Entry]) -> None:
        """Store ``entries``, bury the bad ones, or give up on them. Cancelled, unsettled entries are the caller's."""
        started = time.monotonic()
        with telemetry.flush_span(self._name, len(entries)) as span:
            try:
                refusal = await self._persist(entries)
                if refusal is not None:
                    telemetry.flush_failed(span, describe(refusal))
                    await self._isolate(entries, refusal)
            except _RetriesSpent as spent:
                telemetry.flush_failed(span, describe(_cause(spent)))
                await self.give_up([entry for entry in entries if not entry.settled], describe(_cause(spent)))
        telemetry.flush_done(self._name, len(entries), time.monotonic() - started)

    async def give_up(self, entries: Sequence[Entry], reason: str) -> None:
        """The last resort: to the spool, or dropped and counted."""
        if not entries:
            return
        if self._spool is not None:
            try:
                await self._spool.put([entry.record for entry in entries])
            except Exception as exc:  # noqa: BLE001 -- a full disk must not stop the writer
                reason = f"{reason}; spool: {describe(exc)}"
            else:
                self._settle(entries, {"spooled": len(entries)}, RecordSpooled(f"in the spool: {reason}"))
                return
        self._settle(entries, {"dropped": len(entries)}, RecordDropped(f"dropped: {reason}"))
        if not self._given_up_in_outage:
            log.error("%s: dropping records, first %d of them: %s", self._name, len(entries), reason)
        self._given_up_in_outage += len(entries)

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
            again = describe(_cause(refused))
            log.error("%s: record %s dropped: %s, dead_letters: %s", self._name, record.request_id, reason, again)
            self._settle([entry], {"dropped": 1}, RecordDropped(f"dropped: {reason}; dead_letters: {again}"))
            return
        log.error("%s: record %s is in dead_letters: %s", self._name, record.request_id, reason)
        self._settle([entry], {"dead": 1}, RecordRejected(f"in dead_letters: {reason}"))

    async def _retrying(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Await ``operation`` until it succeeds, is refused, or the retries are spent."""
        for attempt in itertools.count():
            try:
                async with asyncio.timeout(self._flush_timeout):
                    result = await operation()
            except Exception as exc:
                kind = failure_of(exc)
                if kind is Kind.DATA:
                    raise _Refused from exc
                self._log_outage(kind, exc)
                if attempt >= self._max_retries:
                    telemetry.count_retry(self._name, "exhausted")
                    raise _RetriesSpent from exc
            else:
                self._log_recovery()
                return result
            self.retries += 1
            telemetry.count_retry(self._name, "retried")
            await asyncio.sleep(backoff(attempt, base=self._retry_base_delay, maximum=self._retry_max_delay))
        raise AssertionError  # pragma: no cover -- itertools.count() does not end

    def _settle(self, entries: Sequence[Entry], fates: dict[Fate, int], error: Exception | None = None) -> None:
        for fate, number in fates.items():
            telemetry.count(self._name, fate, number)
        self._channel.settle(entries, fates, error)

    def _log_outage(self, kind: Kind, exc: BaseException) -> None:
        if self._outage_logged:
            return
        self._outage_logged = True
        if kind is Kind.CONFIGURATION:
            log.error("%s: cannot write, %s: %s", self._name, describe(exc), fix_for(exc))
        else:
            log.warning("%s: the database is away, %s; retrying", self._name, describe(exc))

    def _log_recovery(self) -> None:
        if self._outage_logged:
            log.warning("%s: writing again; %d records were dropped meanwhile", self._name, self._given_up_in_outage)
        self._outage_logged = False
        self._given_up_in_outage = 0


def _cause(exc: BaseException) -> Exception:
    cause = exc.__cause__
    return cause if isinstance(cause, Exception) else RuntimeError(type(exc).__name__)

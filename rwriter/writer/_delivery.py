"""From a batch to the fate of each of its records: attempts, backoff, the search for a bad record, the last resort.

An error's class says whether a refused statement is surely a record's fault (class 22, 23). For any other code it is
found out by trying: when the retries are spent, the batch is halved, and if other records go in, of it or of a batch
beside it, the one that is refused again is to blame. If nothing goes in, the database is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar
from uuid import UUID

from rwriter._database_errors import (
    Kind,
    backoff,
    describe,
    failure_of,
    met_connecting,
    server_message,
    sqlstate_of,
)
from rwriter.errors import RecordDropped, RecordRejected, RecordSkipped, RecordSpooled
from rwriter.records import CompletedRequest
from rwriter.sink import RecordSink
from rwriter.store import PersistResult
from rwriter.writer import _telemetry as telemetry
from rwriter.writer._account import Fate
from rwriter.writer._bisection import halving_search
from rwriter.writer._options import Options
from rwriter.writer._outage import Outage
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord

T = TypeVar("T")

STATEMENT_BYTES: Final = 1024 * 1024
"""Most bytes of text in one statement of a flush. The driver encodes a statement in one piece on the event loop, which
takes about 4 ms for as much, and for 8 MiB of middling bodies about 18 ms: its buffer grows by copying."""

_ENDED: Final = {False: "stored all", True: "failed for some or all"}

log = logging.getLogger("rwriter")


class Settling(Protocol):
    """Takes the fates of records: the channel, or the spool's replay."""

    def settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        """Give ``entries`` their fate and return how many had none before.

        ``error`` is raised in a sender that waits for one of them.
        """


class Outcome(enum.Enum):
    """What a delivery says about the database."""

    ANSWERED = enum.auto()
    """It answered: each record has its fate."""
    UNREACHABLE = enum.auto()
    """No connection was had, or none that lived."""
    REFUSING = enum.auto()
    """Connected, it refused every statement: another batch may tell whether records of this one are to blame."""


class _Refused(Exception):
    """The database refused a statement: ``certain`` because of a record, or perhaps.

    ``at`` is ``Outage.attempts`` when it did so first.
    """

    def __init__(self, *, certain: bool, at: int) -> None:
        super().__init__()
        self.certain: Final = certain
        self.at: Final = at


class _Away(Exception):
    """The retries are spent, and nothing goes in."""


class Delivery:
    """Delivers batches: every entry handed to ``deliver`` is settled when it returns, or waits for a later attempt."""

    def __init__(
        self,
        store: RecordSink,
        settling: Settling,
        options: Options,
        *,
        outage: Outage,
        overflow: Overflow | None = None,
        replaying: bool = False,
    ) -> None:
        self.retries = 0
        self._store: Final = store
        self._settling: Final = settling
        self._options: Final = options
        self._name: Final = options.name
        self._outage: Final = outage
        self._overflow: Final = overflow
        self._replaying: Final = replaying
        self._holds: Final = overflow is None and options.give_up_after > 0

    async def deliver(self, entries: Sequence[PendingRecord]) -> Outcome:
        """Deliver a batch: store it, move refused records to ``dead_letters``, or spool or drop it.

        While the database is away, a writer without a spool leaves the entries without a fate until ``give_up_after``.
        Cancelled, entries not settled are the caller's.
        """
        started = time.monotonic()
        outcome, failed = Outcome.ANSWERED, False
        spans = [entry.span for entry in entries if entry.span is not None]
        with telemetry.flush_span(self._name, len(entries), spans) as span:
            try:
                for part in _statements(entries):
                    refused = await self._persist(part)
                    if refused is not None:
                        failed = True
                        telemetry.flush_failed(span, describe(_cause(refused)))
                        await self._isolate(part, refused)
            except _Away as away:
                cause = _cause(away)
                outcome = Outcome.UNREACHABLE if met_connecting(cause) else Outcome.REFUSING
                if outcome is Outcome.UNREACHABLE or not self._passes_by():
                    self._outage.retries_spent(cause)
                failed, reason = True, describe(cause)
                telemetry.flush_failed(span, reason)
                if not self._holds:
                    await self.spool_or_drop([entry for entry in entries if entry.fate is None], reason)
        if self._overflow is not None:
            await self._overflow.discard_copies(entries)
        seconds = time.monotonic() - started
        telemetry.flush_done(self._name, len(entries), seconds, failed=failed)
        log.debug("%s: a flush of %d records %s, %.3f s", self._name, len(entries), _ENDED[failed], seconds)
        return outcome

    def _passes_by(self) -> bool:
        # what is left in the spool may be bad records alone: that says nothing about the live ones
        return self._replaying and not self._outage.is_probed

    async def ask(self) -> bool:
        """Ask the database for nothing, to find out whether it is back. Returns True if it answered."""
        try:
            await self._retrying(lambda: self._store.finished_ids(()))
        except (_Away, _Refused) as exc:
            self._outage.retries_spent(_cause(exc))
            return False
        return True

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

    async def _persist(self, entries: Sequence[PendingRecord], *, refusals: int | None = None) -> _Refused | None:
        """Store and settle ``entries``, and return None.

        If the database refuses the statement, settle nothing and return the refusal; the caller searches for the bad
        record.
        """
        records = [entry.record for entry in entries]
        try:
            result = await self._retrying(lambda: self._store_records(records), refusals=refusals)
        except _Refused as refused:
            for entry in entries:
                entry.refused_at = refused.at if entry.refused_at is None else entry.refused_at
            return refused
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

    async def _store_records(self, records: Sequence[CompletedRequest]) -> PersistResult:
        attempt = self._outage.begin()
        result = await self._store.persist_completed(records)
        if result.written:
            self._outage.stored_by(attempt)
        return result

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
        except (_Away, _Refused) as exc:
            log.warning("%s: could not look up skipped records: %s", self._name, describe(_cause(exc)))
        for entry in waiting:
            request_id = entry.record.request_id
            foreign = RecordSkipped(f"a row {request_id} exists that is not the writer's")
            self._settle([entry], "skipped", None if request_id in finished else foreign)

    async def _isolate(self, entries: Sequence[PendingRecord], refused: _Refused) -> None:
        """Find the bad records among ``entries``, which were refused together, and store the others.

        Raises ``_Away`` where the refusal may be the database's: nothing else went in since.
        """
        search = halving_search(entries)
        suspects: list[tuple[PendingRecord, _Refused]] = []
        since = min(entry.refused_at or refused.at for entry in entries)
        # enough to pass by a bad record or two; what accepts nothing then is not asked for each record
        probes_left = 2 * math.ceil(math.log2(len(entries) + 1)) + 4
        accepted: bool | None = None
        with contextlib.suppress(StopIteration):
            while True:
                step = search.send(accepted)
                if not step.is_bad:
                    answer = await self._persist(step.items, refusals=None if refused.certain else 0)
                    accepted = answer is None
                    refused = refused if answer is None else answer
                    probes_left -= not accepted and not refused.certain
                    if probes_left < 0 and not self._outage.took_others_since(since):
                        raise _Away from _cause(refused)
                elif refused.certain:
                    await self._bury(step.items[0], _cause(refused))
                else:
                    suspects.append((step.items[0], refused))
        await self._judge(suspects)

    async def _judge(self, suspects: Iterable[tuple[PendingRecord, _Refused]]) -> None:
        """Try each suspect alone once more: refused again although others went in meanwhile, it is to blame."""
        unclear: _Refused | None = None
        for suspect, refused in suspects:
            if not self._outage.took_others_since(suspect.refused_at):
                unclear = refused
                continue
            # a code that says "later" gets its retries: it may be by chance that it met this record twice
            later = failure_of(_cause(refused)) is Kind.TRANSIENT
            again = await self._persist([suspect], refusals=self._options.max_retries if later else 0)
            if again is not None:
                await self._bury(suspect, _cause(again))
        if unclear is not None:
            raise _Away from _cause(unclear)

    async def _bury(self, entry: PendingRecord, refusal: Exception) -> None:
        if entry.fate is not None:
            return  # its owner was erased meanwhile
        record, sqlstate, reason = entry.record, sqlstate_of(refusal), describe(refusal)
        error = server_message(refusal)
        try:
            await self._retrying(lambda: self._store.bury(record, sqlstate=sqlstate, error=error))
        except _Refused as refused:
            if failure_of(_cause(refused)) is Kind.TRANSIENT:
                raise _Away from _cause(refused)
            reason = f"{reason}; dead_letters: {describe(_cause(refused))}"
            kept = self._overflow is not None and await self._overflow.set_aside(entry, reason)
            ending = "set aside in the spool" if kept else "dropped"
            log.error("%s: record %s %s: %s", self._name, entry.name, ending, reason)
            self._settle([entry], "dropped", RecordDropped(f"{ending}: {reason}"))
            return
        log.error("%s: record %s is in dead_letters: %s", self._name, entry.name, reason)
        self._settle([entry], "dead", RecordRejected(f"in dead_letters: {reason}"))
        telemetry.count_dead(self._name, sqlstate)

    async def _retrying(self, operation: Callable[[], Awaitable[T]], *, refusals: int | None = None) -> T:
        """Await ``operation`` until it succeeds, is refused, or the retries are spent.

        ``refusals`` bounds the retries of a statement that is refused, where they are not those of a connection.
        Raises ``_Refused`` for a statement that was refused, ``_Away`` where no connection was had. That spends no
        retries while a flush beside this one stores records: the database has no connection left, and is not away.
        """
        outage = self._outage
        most = 0 if outage.is_probed else self._options.max_retries
        attempt = 0
        refused_at: int | None = None
        failed = False
        while True:
            stored, let_go = outage.stored, outage.let_go
            try:
                with outage.trying(failed=failed):
                    async with asyncio.timeout(self._options.flush_timeout):
                        result = await operation()
            except Exception as exc:
                if failure_of(exc) is Kind.DATA:
                    outage.database_answered()
                    raise _Refused(certain=True, at=outage.attempts) from exc
                beside = outage.stored != stored
                # out of time: the line or the server is silent, unless others are answered meanwhile
                connecting = met_connecting(exc) or (isinstance(exc, TimeoutError) and not beside)
                waits = connecting and (beside or outage.waits_for_another(exc, let_go=let_go))
                outage.attempt_failed(exc, connecting=connecting and not waits)
                if not connecting and refused_at is None:
                    refused_at = outage.attempts
                if waits:
                    attempt = 0
                elif attempt >= (most if connecting or refusals is None else refusals):
                    telemetry.count_retry(self._name, "exhausted")
                    raise (_Away() if connecting else _Refused(certain=False, at=refused_at or 0)) from exc
            else:
                outage.database_answered()
                return result
            failed = True
            self.retries += 1
            telemetry.count_retry(self._name, "retried")
            delay = backoff(attempt, base=self._options.retry_base_delay, maximum=self._options.retry_max_delay)
            with outage.resting():
                await asyncio.sleep(delay)
            attempt += 1

    def _settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        number = self._settling.settle(entries, fate, error)
        telemetry.count(self._name, fate, number)
        return number


def _statements(entries: Sequence[PendingRecord]) -> Iterator[Sequence[PendingRecord]]:
    """Yield ``entries`` in parts of at most ``STATEMENT_BYTES``; a larger record goes alone."""
    start = size = 0
    for number, entry in enumerate(entries):
        if number > start and size + entry.size > STATEMENT_BYTES:
            yield entries[start:number]
            start, size = number, 0
        size += entry.size
    yield entries[start:]


def _cause(exc: BaseException) -> Exception:
    cause = exc.__cause__
    return cause if isinstance(cause, Exception) else RuntimeError(type(exc).__name__)

"""The life of a writer, in one place: opening, the consumer task, the drain and the end."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import weakref
from datetime import UTC, datetime
from typing import Final, Literal

from rwriter._database_errors import Kind, advice, describe, failure_of
from rwriter.errors import (
    DatabaseRefused,
    RwriterError,
    SinkUnavailable,
    WriterClosed,
    WriterFailed,
    WriterForked,
    WriterNotOpen,
)
from rwriter.ledger import Book
from rwriter.partitions import IdBounds
from rwriter.sink import RecordSink
from rwriter.spool import Spool
from rwriter.writer import _telemetry as telemetry
from rwriter.writer._account import Fate
from rwriter.writer._channel import Channel
from rwriter.writer._consumer import Consumer
from rwriter.writer._options import Options
from rwriter.writer._outage import Database

START_TIMEOUT: Final = 10.0
"""Seconds the start check may take before the writer opens without it."""

CANCEL_GRACE: Final = 0.5
"""Seconds a cancelled flush has to tell the server and to close its connection, before it drops the connection."""

DROP_GRACE: Final = 5.0
"""Seconds a flush may take to drop its connection before the drain goes on without it."""

LEDGER_GRACE: Final = 1.0
"""Seconds that the last entry of the ledger may take, after the drain."""

DRAIN_ATTEMPTS: Final = 3
"""How often ``close`` starts the consumer anew when it dies, before the rest is spooled or dropped."""

log = logging.getLogger("rwriter")


class State(enum.Enum):
    """The stage of a writer's life."""

    NEW = enum.auto()
    OPENING = enum.auto()
    OPEN = enum.auto()
    DRAINING = enum.auto()
    """New records are refused, pending ones are delivered until the deadline."""
    CLOSED = enum.auto()
    """Nothing is delivered any more; what was left is spooled or dropped."""
    FAILED = enum.auto()
    """The start check raised, or the consumer died. ``close`` still settles what is pending."""
    FORKED = enum.auto()
    """This is a child process: the consumer, the connections and the records are the parent's."""


_OPENED: Final[weakref.WeakSet[Lifecycle]] = weakref.WeakSet()
_RUNNING: Final[set[asyncio.Task[None]]] = set()


def _refuse_in_child() -> None:
    for lifecycle in list(_OPENED):
        lifecycle.forked()


os.register_at_fork(after_in_child=_refuse_in_child)


class Lifecycle:
    """Moves one writer from new to closed, and owns its consumer task."""

    def __init__(
        self,
        store: RecordSink,
        channel: Channel,
        consumer: Consumer,
        options: Options,
        bounds: IdBounds,
        *,
        book: Book | None = None,
    ) -> None:
        self.state = State.NEW
        self.is_traced = False
        """True once the writer is open in a service that records spans."""
        self._store: Final = store
        self._channel: Final = channel
        self._consumer: Final = consumer
        self._options: Final = options
        self._bounds: Final = bounds
        self._book: Final = book
        self._name: Final = options.name
        self._task: asyncio.Task[None] | None = None
        self._since = datetime.now(UTC)
        self._shutdown_began: float | None = None
        self._fates_before: dict[Fate, int] | None = None
        self._failure: str | None = None
        self._left_opening: Final = asyncio.Event()
        self._finishing: Final = asyncio.Lock()

    def health(self) -> tuple[Literal["ok", "spooling", "holding", "failed"], datetime, str | None]:
        """Return the state that ``Health`` tells of, when it began, and the error."""
        outage = self._consumer.outage
        if self.state not in {State.OPEN, State.DRAINING}:
            return "failed", self._since, self._failure
        if outage.state is Database.UP:
            return "ok", max(self._since, outage.since), None
        return "holding" if self._options.spool is None else "spooling", outage.since, outage.error

    async def open(self) -> None:
        """Check the schema, open the spool and start the consumer. Raises what kept the writer from opening."""
        if self.state is not State.NEW:
            msg = "a writer is used once: make another RequestsWriter"
            raise WriterClosed(msg)
        self.state = State.OPENING
        try:
            if self._options.check_schema:
                await self._check_start()
            if self._options.spool is not None:
                await self._options.spool.open()
                await self._stamp(self._options.spool)
            if self._book is not None:
                await self._book.open()
            self._check_still_opening()
        except BaseException as exc:
            await self._fail_to_open(exc)
            raise
        self._enter(State.OPEN)
        self.is_traced = telemetry.spans_are_recorded()
        self._channel.open()
        _OPENED.add(self)
        self._start_consumer()
        log.info("%s: open, batches of up to %d records", self._name, self._options.batch_size)
        self._left_opening.set()

    async def wait_open(self) -> None:
        """Return once records are accepted. Raises what kept the writer from opening."""
        await self._left_opening.wait()
        self._channel.check_accepting()

    async def run(self, shutdown: asyncio.Event) -> None:
        """Open, consume until ``shutdown`` is set, then close. See ``RequestsWriter.run``."""
        await self.open()
        stop = asyncio.create_task(shutdown.wait(), name=f"{self._name}-shutdown")
        try:
            await asyncio.wait({stop, self._running()}, return_when=asyncio.FIRST_COMPLETED)
            failed = self._running().done()
            await self.close(None)
        except BaseException:
            await self._cancel_consumer()
            raise
        finally:
            stop.cancel()
        if failed:
            self._channel.raise_failure()

    async def flush(self) -> None:
        """Return once everything accepted before the call is settled. Raises ``WriterNotOpen`` or ``WriterFailed``."""
        if self.state is State.NEW:
            msg = "the writer is not open: there is nothing to flush"
            raise WriterNotOpen(msg)
        await self._channel.drained()

    async def begin_shutdown(self) -> None:
        """Start the deadline of a later ``close(None)``, and copy what is pending to the spool."""
        if self.state is State.OPEN:
            if self._shutdown_began is None:
                self._shutdown_began = asyncio.get_running_loop().time()
            await self._keep_copies(self._shutdown_began + self._options.drain_timeout)

    async def close(self, timeout: float | None) -> None:
        """Refuse new records, drain, and spool or drop the rest. See ``RequestsWriter.aclose``."""
        if self.state is State.FORKED:
            return
        loop = asyncio.get_running_loop()
        timeout = self._time_left(loop.time()) if timeout is None else max(0.0, timeout)
        # dropping connections is a part of the drain: where nobody answers, it takes all of the grace
        deadline = loop.time() + timeout - min(CANCEL_GRACE, timeout / 4)
        self._channel.close()
        self._consumer.closing()
        if self.state in {State.NEW, State.OPENING}:
            self._enter(State.CLOSED)
            self._left_opening.set()
        if self._task is None:
            return
        if self.state in {State.OPEN, State.FAILED}:
            self._enter(State.DRAINING)
            self._begin_drain(timeout)
            # first: a supervisor may kill the process at any time from now on
            await self._keep_copies(deadline)
        await self._drain(deadline)
        async with self._finishing:
            await self._finish()

    def forked(self) -> None:
        """Refuse everything from now on: called in a child process."""
        self._enter(State.FORKED)
        self._channel.refuse_after_fork(
            WriterForked("this writer was opened before a fork: open one in each worker (lifespan, post-fork hook)")
        )

    def _time_left(self, now: float) -> float:
        whole = self._options.drain_timeout
        if self._shutdown_began is None:
            return whole
        # what went before has used up some of the supervisor's patience; a quarter is the least to deliver in
        return max(whole / 4, self._shutdown_began + whole - now)

    def _enter(self, state: State, cause: BaseException | None = None) -> None:
        if state is not self.state:
            self._since = datetime.now(UTC)
        self.state = state
        if cause is not None:
            self._failure = str(cause) if isinstance(cause, RwriterError) else describe(cause)

    # -- opening

    def _check_still_opening(self) -> None:
        if self.state is not State.OPENING:
            msg = "the writer was closed while it was opening"
            raise WriterClosed(msg)

    async def _check_start(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._store.check_schema()
                await self._bounds.learn()
        except SinkUnavailable as exc:
            self._consumer.outage.retries_spent(exc)
        except RwriterError:
            raise
        except Exception as exc:  # noqa: BLE001 -- a database that is away must not take the service down with it
            if failure_of(exc) is Kind.CONFIGURATION:
                raise DatabaseRefused(f"cannot use the database: {describe(exc)}: {advice(exc)}") from None
            self._consumer.outage.retries_spent(exc)

    async def _stamp(self, spool: Spool) -> None:
        """Have the spool refuse another database than its own. One that is away is asked before the first replay."""
        if self._consumer.outage.state is not Database.UP:
            return
        try:
            async with asyncio.timeout(START_TIMEOUT):
                identity = await self._store.identity()
        except Exception as exc:  # noqa: BLE001 -- away: see above
            log.debug("%s: cannot ask the database who it is, %s", self._name, describe(exc))
            return
        await spool.belongs_to(identity)

    async def _fail_to_open(self, exc: BaseException) -> None:
        if self.state is State.OPENING:
            self._enter(State.FAILED, exc)
            failure = WriterFailed("the writer did not open")
            failure.__cause__ = exc
            self._channel.fail(failure)
        await self._close_ledger()
        if self._options.spool is not None:
            await self._options.spool.aclose()
        self._left_opening.set()

    # -- the consumer task

    def _start_consumer(self) -> None:
        self._task = asyncio.create_task(self._consumer.run(), name=f"{self._name}-consumer")
        self._task.add_done_callback(self._consumer_done)
        # a loop holds its tasks weakly: a writer whose last reference is dropped would vanish with its records
        _RUNNING.add(self._task)
        self._task.add_done_callback(_RUNNING.discard)

    def _running(self) -> asyncio.Task[None]:
        if self._task is None:
            msg = "the writer was not opened"
            raise WriterNotOpen(msg)
        return self._task

    def _consumer_done(self, consumer: asyncio.Task[None]) -> None:
        cause: BaseException | None = None
        if not consumer.cancelled():
            cause = consumer.exception()
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            if cause is None and self._channel.closed:
                return
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN:
            self._enter(State.FAILED, cause)
        failure = WriterFailed("the writer's background task ended before its time; aclose() settles what is pending")
        failure.__cause__ = cause
        self._channel.fail(failure)
        reason = "cancelled" if cause is None else describe(cause)
        log.error("%s: the background task ended, %s; %d records pending", self._name, reason, self._channel.pending)

    async def _cancel_consumer(self) -> None:
        consumer = self._running()
        consumer.cancel()
        await asyncio.wait({consumer}, timeout=CANCEL_GRACE)
        self._consumer.cancel_again()
        await asyncio.wait({consumer}, timeout=DROP_GRACE)

    # -- the end

    def _begin_drain(self, timeout: float) -> None:
        self._fates_before = dict(self._channel.account.fates)
        log.info("%s: draining %d records for up to %.1f s", self._name, self._channel.pending, timeout)

    def _end_drain(self) -> None:
        """Count what became of the records that were pending when the drain began."""
        before, self._fates_before = self._fates_before, None
        if before is None:
            return
        fates = self._channel.account.fates
        ended = {fate: fates[fate] - number for fate, number in before.items() if fates[fate] != number}
        for fate, number in ended.items():
            telemetry.count_shutdown(self._name, fate, number)
        told = ", ".join(f"{number} {fate}" for fate, number in ended.items())
        log.info("%s: closed; of the records left at the end: %s", self._name, told or "none")

    async def _drain(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(DRAIN_ATTEMPTS):
            if self._running().done() and self._channel.pending and self.state is State.DRAINING:
                # it was cancelled or died with records pending: another, under the same deadline
                self._start_consumer()
            await asyncio.wait({self._running()}, timeout=max(0.0, deadline - loop.time()))

    async def _keep_copies(self, deadline: float) -> None:
        if asyncio.get_running_loop().time() < deadline:
            # a disk that hangs must not hold up the drain
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._consumer.keep_copies()

    async def _finish(self) -> None:
        self._enter(State.CLOSED)
        if not self._running().done():
            await self._cancel_consumer()
        left = self._channel.drain_all()
        if left:
            log.error("%s: the drain deadline passed with %d records pending", self._name, len(left))
            size = self._options.batch_size
            # in batches: a spool with little room left takes what it can
            for batch in (left[start : start + size] for start in range(0, len(left), size)):
                await self._consumer.spool_or_drop(batch, "the drain deadline passed")
        self._end_drain()
        await self._close_ledger()
        if self._options.spool is not None:
            await self._options.spool.aclose()

    async def _close_ledger(self) -> None:
        if self._book is not None:
            await self._book.close(LEDGER_GRACE)

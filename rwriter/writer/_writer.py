"""``RequestsWriter``: the front door, the background consumer, and the end."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import uuid
import weakref
from types import TracebackType
from typing import Final, Literal, Self

from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter._database_errors import Kind, advice, describe, failure_of
from rwriter.engines import EngineProvider
from rwriter.errors import RwriterError, SchemaOutdated, WriterClosed, WriterFailed, WriterForked, WriterNotOpen
from rwriter.records import CompletedRequest
from rwriter.spool import Spool
from rwriter.store import RequestStore
from rwriter.writer import _telemetry as telemetry
from rwriter.writer._channel import Channel
from rwriter.writer._consumer import Consumer
from rwriter.writer._entry import Entry
from rwriter.writer._in_flight import InFlight
from rwriter.writer._options import MIB, Options
from rwriter.writer._telemetry import WriterStats

START_TIMEOUT: Final = 10.0
"""Seconds the start check may take before the writer opens without it."""

CANCEL_GRACE: Final = 0.5
"""Seconds a cancelled flush has to tell the server and to close its connection, before it drops the connection."""

DROP_GRACE: Final = 5.0
"""Seconds a flush may take to drop its connection before the drain goes on without it."""

DRAIN_ATTEMPTS: Final = 3
"""How often ``aclose`` starts the background task anew when it dies, before what is left goes to its last resort."""

log = logging.getLogger("rwriter")


_open_writers: weakref.WeakSet[RequestsWriter] = weakref.WeakSet()


def _refuse_in_child() -> None:
    for writer in list(_open_writers):
        writer.forked()


os.register_at_fork(after_in_child=_refuse_in_child)


class _State(enum.Enum):
    NEW = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class RequestsWriter:
    """Takes finished requests off the request path and stores each of them once, in batches.

    ``async with RequestsWriter(store) as writer`` starts the consumer and drains on leaving; ``run(shutdown)`` is the
    same for services that own their tasks. A writer is used once, on one event loop.

    ===================== ============ ==================================================================
    option                default      meaning
    ===================== ============ ==================================================================
    ``batch_size``        100          most records in one statement (below 1 means 1)
    ``batch_bytes``       8 MiB        most bytes of text in one statement (a larger record goes alone)
    ``channel_capacity``  10,000       most records in the buffer
    ``channel_bytes``     64 MiB       most bytes of text in the buffer (a larger record is admitted alone)
    ``max_retries``       3            attempts after the first, then spool or drop
    ``retry_base_delay``  0.1 s        bound of the first delay; doubles, with full jitter
    ``retry_max_delay``   10 s         most seconds between two attempts
    ``linger``            0 s          how long the oldest record may wait for its batch to fill
    ``flush_concurrency`` 2            flushes in flight, each on a connection of its own
    ``flush_timeout``     60 s         one attempt, acquiring the connection included
    ``drain_timeout``     30 s         how long ``aclose()`` drains by default
    ``spool``             ``None``     a ``Spool``: where batches go when retries are spent
    ``durability``        ``memory``   ``journal``: ``send`` returns when the record is in the spool
    ``replay_interval``   5 s          how often the spool is searched for rows other processes left
    ``fail_stale_after``  ``None``     seconds after which ``fail_stale`` fails a row stuck in ``processing``; off
    ``check_schema``      ``True``     compare the database with head on start
    ``name``              ``rwriter``  in logs, spans and metrics
    ===================== ============ ==================================================================

    Raises ``ValueError`` naming the option that cannot be used; does no I/O until it is opened.
    """

    def __init__(  # noqa: PLR0913 -- the options of the table above, keyword-only
        self,
        store: RequestStore | EngineProvider | AsyncEngine,
        *,
        batch_size: int = 100,
        batch_bytes: int = 8 * MIB,
        channel_capacity: int = 10_000,
        channel_bytes: int = 64 * MIB,
        max_retries: int = 3,
        retry_base_delay: float = 0.1,
        retry_max_delay: float = 10.0,
        linger: float = 0.0,
        flush_concurrency: int = 2,
        flush_timeout: float = 60.0,
        drain_timeout: float = 30.0,
        spool: Spool | None = None,
        durability: Literal["memory", "journal"] = "memory",
        replay_interval: float = 5.0,
        fail_stale_after: float | None = None,
        check_schema: bool = True,
        name: str = "rwriter",
    ) -> None:
        self.name: Final = name
        self.in_flight: Final = InFlight()
        """Calls whose records are still to come: see ``rwriter.asgi``."""
        self._options: Final = Options(
            batch_size=max(1, batch_size),
            batch_bytes=batch_bytes,
            channel_capacity=channel_capacity,
            channel_bytes=channel_bytes,
            max_retries=max_retries,
            retry_base_delay=retry_base_delay,
            retry_max_delay=retry_max_delay,
            linger=linger,
            flush_concurrency=flush_concurrency,
            flush_timeout=flush_timeout,
            drain_timeout=drain_timeout,
            durability=durability,
            replay_interval=replay_interval,
            fail_stale_after=fail_stale_after,
            check_schema=check_schema,
            name=name,
        )
        if durability == "journal" and spool is None:
            msg = "durability='journal' needs a spool: pass spool=Spool(directory)"
            raise ValueError(msg)
        self._spool: Final = spool
        self._store: Final = RequestStore(store) if isinstance(store, (AsyncEngine, EngineProvider)) else store
        self._channel: Final = Channel(capacity=channel_capacity, max_bytes=channel_bytes)
        self._consumer: Final = Consumer(self._store, self._channel, self._options, spool)
        self._state = _State.NEW
        self._opened = asyncio.Event()
        self._closing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        telemetry.watch(self)

    # -- records

    async def send(self, record: CompletedRequest, *, wait: Literal["accepted", "committed"] = "accepted") -> None:
        """Hand over a record, waiting while the buffer is full. Cancelled while waiting, it was not accepted.

        ``wait="committed"`` returns once its row is stored (or is found stored already), and otherwise raises what
        became of it: ``RecordRejected``, ``RecordSkipped``, ``RecordSpooled``, ``RecordDropped``. Cancelled then, the
        record stays accepted.

        Raises ``WriterNotOpen``, ``WriterClosed``, or ``WriterFailed`` when the background task died.
        """
        if wait not in {"accepted", "committed"}:
            msg = f"wait must be 'accepted' or 'committed', not {wait!r}"
            raise ValueError(msg)
        entry = await (self._journal if self._options.durability == "journal" else self._channel.send)(checked(record))
        if wait == "committed":
            await self._channel.settled(entry)

    def send_nowait(self, record: CompletedRequest) -> None:
        """Hand over a record, or raise ``ChannelFull`` at once. Otherwise as ``send``, but never journaled."""
        self._channel.send_nowait(checked(record))

    async def _journal(self, record: CompletedRequest) -> Entry:
        size = await self._channel.reserve(record)
        try:
            spool = self._opened_spool()
            seq = await spool.journal(record)
            if self._channel.closed:
                # refused, so it must not come back from the spool either
                await spool.remove([seq])
                self._channel.check_accepting()
        except BaseException:
            self._channel.free(size)
            raise
        entry = self._channel.accept(record, size)
        entry.spool_seq = seq
        return entry

    def get(self, request_id: uuid.UUID) -> CompletedRequest | None:
        """A record accepted and not yet stored, so that a row just written does not answer 404."""
        return self._channel.get(request_id)

    def find(self, custom_id: str, created_by: str) -> CompletedRequest | None:
        """The latest record accepted and not yet stored that ``created_by``'s client knows as ``custom_id``."""
        return self._channel.find(custom_id, created_by)

    @property
    def store(self) -> RequestStore:
        """Where the records go."""
        return self._store

    @property
    def spool(self) -> Spool | None:
        """Where they go when the database is away."""
        return self._spool

    @property
    def stats(self) -> WriterStats:
        """The account, exact at this instant."""
        channel = self._channel
        return WriterStats(
            accepted=channel.accepted,
            persisted=channel.fates["persisted"],
            skipped=channel.fates["skipped"],
            dead=channel.fates["dead"],
            spooled=channel.fates["spooled"],
            dropped=channel.fates["dropped"],
            pending=channel.pending,
            pending_bytes=channel.pending_bytes,
            oldest_age=channel.oldest_age,
            waiting_senders=channel.waiting_senders,
            retries=self._consumer.retries,
            replayed=self._consumer.replayed,
        )

    # -- the background

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def run(self, shutdown: asyncio.Event) -> None:
        """Consume until ``shutdown`` is set, then drain for up to ``drain_timeout``.

        Cancelled, it stops at once and loses nothing: what is pending stays in the account for ``aclose()``. Raises
        ``SchemaOutdated`` on start, ``WriterFailed`` if the consumer died.
        """
        await self._open()
        stop = asyncio.create_task(shutdown.wait(), name=f"{self.name}-shutdown")
        try:
            await asyncio.wait({stop, self._running()}, return_when=asyncio.FIRST_COMPLETED)
            failed = self._running().done()
            await self.aclose()
        except BaseException:
            await self._cancel_consumer()
            raise
        finally:
            stop.cancel()
        if failed:
            self._channel.raise_failure()

    async def wait_open(self, timeout: float | None = None) -> None:
        """Return once ``run`` accepts records. Raises what kept it from opening; ``TimeoutError`` after seconds."""
        async with asyncio.timeout(timeout):
            await self._opened.wait()
        self._channel.check_accepting()

    async def flush(self, timeout: float | None = None) -> None:
        """Return once everything accepted before the call has reached its end, whatever end that is.

        Raises ``TimeoutError`` after ``timeout`` seconds, ``WriterFailed`` when the background task died.
        """
        if self._state is _State.NEW:
            msg = "the writer is not open: there is nothing to flush"
            raise WriterNotOpen(msg)
        async with asyncio.timeout(timeout):
            await self._channel.drained()

    async def aclose(self, timeout: float | None = None) -> None:
        """Refuse new records, drain for up to ``timeout`` seconds (default ``drain_timeout``), settle the rest.

        What is left at the deadline is spooled, or counted as dropped and logged. Idempotent; cancelled, the drain
        goes on in the background and another call can wait for it.
        """
        loop = asyncio.get_running_loop()
        timeout = self._options.drain_timeout if timeout is None else max(0.0, timeout)
        # letting go of connections is a part of the drain: where nobody answers, it takes all of the grace
        deadline = loop.time() + timeout - min(CANCEL_GRACE, timeout / 4)
        self._channel.close()
        if self._state is _State.NEW:
            self._state = _State.CLOSED
            self._opened.set()
        if self._task is None:
            return
        for _ in range(DRAIN_ATTEMPTS):
            if self._task.done() and self._channel.pending and not self._stopping:
                # it was cancelled or died with records in hand: another, under the same deadline
                self._start_consumer()
            await asyncio.wait({self._running()}, timeout=max(0.0, deadline - loop.time()))
        async with self._closing:
            await self._finish()

    def forked(self) -> None:
        """Called in a child process: the consumer and the connections are the parent's, so nothing may be sent here."""
        self._channel.refuse(
            WriterForked("this writer was opened before a fork: open one in each worker (lifespan, post-fork hook)")
        )

    # -- inside

    async def _open(self) -> None:
        if self._state is not _State.NEW:
            msg = "a writer is used once: make another RequestsWriter"
            raise WriterClosed(msg)
        self._state = _State.OPEN
        try:
            if self._options.check_schema:
                await self._check_start()
            if self._spool is not None:
                await self._spool.open()
        except BaseException as exc:
            failure = WriterFailed("the writer did not open")
            failure.__cause__ = exc
            self._channel.fail(failure)
            self._opened.set()
            raise
        self._channel.open()
        _open_writers.add(self)
        self._start_consumer()
        self._opened.set()

    async def _check_start(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._store.check_schema()
        except SchemaOutdated:
            raise
        except Exception as exc:  # noqa: BLE001 -- a database that is away must not take the service down with it
            if failure_of(exc) is Kind.CONFIGURATION:
                log.error("%s: cannot use the database, %s: %s", self.name, describe(exc), advice(exc))
            else:
                log.warning("%s: the database is away on start, %s; taking records", self.name, describe(exc))

    def _start_consumer(self) -> None:
        self._task = asyncio.create_task(self._consumer.run(), name=f"{self.name}-consumer")
        self._task.add_done_callback(self._consumer_done)

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
        if self._stopping:
            return
        failure = WriterFailed("the writer's background task ended before its time; aclose() settles what is pending")
        failure.__cause__ = cause
        self._channel.fail(failure)
        reason = "cancelled" if cause is None else describe(cause)
        log.error("%s: the background task ended, %s; %d records pending", self.name, reason, self._channel.pending)

    def _opened_spool(self) -> Spool:
        if self._spool is None:
            msg = "the writer has no spool"
            raise RwriterError(msg)
        return self._spool

    async def _cancel_consumer(self) -> None:
        consumer = self._running()
        consumer.cancel()
        await asyncio.wait({consumer}, timeout=CANCEL_GRACE)
        self._consumer.insist()
        await asyncio.wait({consumer}, timeout=DROP_GRACE)

    async def _finish(self) -> None:
        if not self._running().done():
            self._stopping = True
            await self._cancel_consumer()
        leftovers = self._channel.leftovers()
        if leftovers:
            log.error("%s: the drain deadline passed with %d records pending", self.name, len(leftovers))
            size = self._options.batch_size
            # in batches: a spool with little room left takes what it can
            for batch in (leftovers[start : start + size] for start in range(0, len(leftovers), size)):
                await self._consumer.give_up(batch, "the drain deadline passed")
        if self._spool is not None:
            await self._spool.aclose()
        self._state = _State.CLOSED


def checked(record: CompletedRequest) -> CompletedRequest:
    """``record``; raises ``TypeError`` for anything that is no ``CompletedRequest``."""
    if not isinstance(record, CompletedRequest):
        msg = f"record must be a CompletedRequest, not {type(record).__name__}"
        raise TypeError(msg)
    return record

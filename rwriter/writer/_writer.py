"""``RequestsWriter``, the front door: records in, the account out, and the background in between."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, Self, Unpack

from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter._values.texts import repair
from rwriter.engines import EngineProvider
from rwriter.errors import RecordSkipped, RwriterError
from rwriter.ledger import Book
from rwriter.partitions import IdBounds
from rwriter.records import CompletedRequest
from rwriter.sink import RecordSink
from rwriter.spool import Spool
from rwriter.store import Erasure, RequestStore
from rwriter.writer import _telemetry as telemetry
from rwriter.writer._account import FATES, Account
from rwriter.writer._channel import Channel
from rwriter.writer._consumer import Consumer
from rwriter.writer._in_flight import InFlight
from rwriter.writer._lifecycle import Lifecycle
from rwriter.writer._options import Options, WriterOptions
from rwriter.writer._outage import Database
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord
from rwriter.writer._telemetry import Health, WriterStats


class RequestsWriter:
    """Takes finished requests off the request path and stores each of them once, in batches.

    ``async with RequestsWriter(store) as writer`` starts the consumer and drains on leaving; ``run(shutdown)`` is the
    same for services that own their tasks. A writer is used once, on one event loop.

    ===================== ============ ==================================================================
    option                default      meaning
    ===================== ============ ==================================================================
    ``batch_size``        100          most records in one statement (below 1 means 1)
    ``batch_bytes``       8 MiB        most bytes of text in one flush (a larger record goes alone)
    ``channel_capacity``  10,000       most records in the buffer
    ``channel_bytes``     64 MiB       most bytes of text in the buffer (a larger record is admitted alone)
    ``max_retries``       3            attempts after the first; then the database counts as away
    ``retry_base_delay``  0.1 s        the first delay; doubles, times a random 1 to 1.5
    ``retry_max_delay``   10 s         what the delay doubles up to
    ``give_up_after``     120 s        without a spool, how long records wait in an outage; 0 drops after the retries
    ``linger``            0.05 s       how long the oldest record waits for its batch to fill, while nobody waits for it
    ``flush_concurrency`` 2            flushes in flight, each on a connection of its own
    ``flush_timeout``     60 s         one attempt, acquiring the connection included
    ``drain_timeout``     8 s          how long ``aclose()`` drains by default
    ``spool``             ``None``     a ``Spool``: where batches go when retries are spent
    ``durability``        ``memory``   ``journal``: ``send`` returns when the record is in the spool
    ``replay_interval``   5 s          how often the spool is searched for rows other processes left
    ``fail_stale_after``  ``None``     seconds after which ``fail_stale`` fails a row stuck in ``processing``; off
    ``upkeep``            ``None``     an ``Upkeep``: retention, by one process of the fleet at a time
    ``ledger``            ``False``    write an entry beside each batch, for ``rwriter audit``
    ``check_schema``      ``True``     compare the database with head on start
    ``name``              ``rwriter``  in logs, spans and metrics
    ===================== ============ ==================================================================

    Raises ``ValueError`` naming the option that cannot be used; does no I/O until it is opened.
    """

    def __init__(self, store: RecordSink | EngineProvider | AsyncEngine, **options: Unpack[WriterOptions]) -> None:
        self._options: Final = Options(**options)
        self.name: Final = self._options.name
        self.in_flight: Final = InFlight()
        """Calls whose records are still to come: see ``rwriter.asgi``."""
        self.sink: Final[RecordSink] = _sink_of(store)
        """Where the records go."""
        database = self.sink if isinstance(self.sink, RequestStore) else None
        for option in ("fail_stale_after", "upkeep"):
            if database is None and getattr(self._options, option) is not None:
                msg = f"{option} needs a RequestStore, and not a {type(self.sink).__name__}: leave it out here"
                raise ValueError(msg)
        spool = self._options.spool
        self._overflow: Final = None if spool is None else Overflow(spool)
        self._account: Final = Account()
        self._channel: Final = Channel(
            self._account, capacity=self._options.channel_capacity, max_bytes=self._options.channel_bytes
        )
        self._book: Final = self._ledger() if self._options.ledger else None
        self._consumer: Final = Consumer(
            self.sink, self._channel, self._options, spool=spool, overflow=self._overflow, book=self._book
        )
        # of a store; what else a writer writes to has no partitions
        self._bounds: Final = IdBounds(getattr(database, "engine", None))
        self._lifecycle: Final = Lifecycle(
            self.sink, self._channel, self._consumer, self._options, self._bounds, book=self._book
        )
        telemetry.watch(self)
        if self._overflow is not None:
            telemetry.watch_spool(self._overflow, self.name)

    def _ledger(self) -> Book:
        options = self._options
        return Book(
            self.sink,
            name=options.name,
            account=lambda: {name: getattr(self.stats, name) for name in ("accepted", *FATES, "pending", "replayed")},
            is_up=lambda: self._consumer.outage.state is Database.UP,
            folder=None if options.spool is None else options.spool.directory,
            capacity=options.channel_capacity,
            durability=options.durability,
        )

    # -- records

    async def send(self, record: CompletedRequest, *, wait: Literal["accepted", "committed"] = "accepted") -> None:
        """Hand over a record, waiting while the buffer is full. Cancelled while waiting, it was not accepted.

        ``wait="committed"`` returns once its row is stored (or is found stored already), and otherwise raises what
        became of it: ``RecordRejected``, ``RecordSkipped``, ``RecordSpooled``, ``RecordDropped``. Cancelled then, the
        record stays accepted.

        Raises ``WriterNotOpen``, ``WriterClosed``, or ``WriterFailed`` when the background task died, and on
        partitioned tables ``IdRefused`` for an id that no partition takes.
        """
        if wait not in {"accepted", "committed"}:
            msg = f"wait must be 'accepted' or 'committed', not {wait!r}"
            raise ValueError(msg)
        check_type(record)
        if self._bounds.are_limited:
            await self._bounds.check(record.request_id)
        if self._overflow is not None and self._options.durability == "journal":
            entry = await self._journal(record, self._overflow)
        else:
            # no coroutine around these: each would be unwound when a waiting sender is cancelled
            entry = self._channel.accept(record, await self._channel.wait_for_room(record))
        if self._lifecycle.is_traced:
            entry.span = telemetry.current_span()
        if wait == "committed":
            await self._channel.wait_settled(entry)

    def send_nowait(self, record: CompletedRequest) -> None:
        """Hand over a record, or raise ``ChannelFull`` at once. Otherwise as ``send``, but never journaled.

        An id of a time that no partition is known for is refused for a few seconds after the partitions were read;
        later its record becomes a dead letter if there is still none.
        """
        check_type(record)
        if self._bounds.are_limited:
            self._bounds.check_known(record.request_id)
        entry = self._channel.send_nowait(record)
        if self._lifecycle.is_traced:
            entry.span = telemetry.current_span()

    async def _journal(self, record: CompletedRequest, overflow: Overflow) -> PendingRecord:
        size = await self._channel.wait_for_room(record)
        try:
            number = await overflow.journal(record)
            if self._channel.closed:
                # refused, so it must not come back from the spool either
                await overflow.withdraw(number)
                self._channel.check_accepting()
        except BaseException:
            self._channel.return_room(size)
            raise
        entry = self._channel.accept(record, size)
        overflow.has_copy(entry, number)
        return entry

    def get(self, request_id: uuid.UUID) -> CompletedRequest | None:
        """Return a record accepted and not yet stored, or ``None``: a row just written must not answer 404."""
        return self._channel.get(request_id)

    def find(self, custom_id: str, created_by: str) -> CompletedRequest | None:
        """Return the latest record not yet stored that ``created_by``'s client knows as ``custom_id``, or ``None``."""
        return self._channel.find(custom_id, created_by)

    async def erase(self, created_by: str) -> Erasure:
        """Delete everything of an owner's: from this writer's buffer and spool at once, and from the database.

        Records in the buffer that began before count as ``skipped``, and a ``send(wait="committed")`` of one raises
        ``RecordSkipped``. Nothing of them can be read from the spool's files any more; a spool on another host drops
        them when it replays them. What began after ``Erasure.erased_at`` is stored as ever.

        Raises ``WriterNotOpen`` or ``WriterClosed``, ``RwriterError`` where the records go to another sink than a
        database, and what the database raises: buffer and spool have forgotten the owner then, and the call is to be
        repeated.
        """
        self._channel.check_accepting()
        store, owner = self.store, repair(created_by).strip()
        # at once, and again for what was accepted, or put into the spool, while the database was asked
        await self._forget(owner, datetime.now(UTC))
        erasure = await store.erase(owner)
        await self._forget(owner, erasure.erased_at)
        return erasure

    async def _forget(self, owner: str, until: datetime) -> None:
        forgotten = self._channel.forget(owner, until, RecordSkipped("its owner was erased"))
        telemetry.count(self.name, "skipped", len(forgotten))
        ids = {entry.record.request_id for entry in forgotten}
        if self._overflow is not None:
            ids |= set(await self._overflow.forget(owner, until, forgotten))
        if self._book is not None:
            self._book.note("skipped", ids)

    @property
    def store(self) -> RequestStore:
        """The store that the records go to. Raises ``RwriterError`` where they go to another sink than a database."""
        if not isinstance(self.sink, RequestStore):
            msg = f"this writer's records go to a {type(self.sink).__name__}: make a RequestStore to read them"
            raise RwriterError(msg)
        return self.sink

    @property
    def spool(self) -> Spool | None:
        """The spool that they go to when the database is away."""
        return self._options.spool

    @property
    def stats(self) -> WriterStats:
        """The account, exact at this instant."""
        channel, fates = self._channel, self._account.fates
        return WriterStats(
            accepted=self._account.accepted,
            persisted=fates["persisted"],
            skipped=fates["skipped"],
            dead=fates["dead"],
            spooled=fates["spooled"],
            dropped=fates["dropped"],
            pending=self._account.pending,
            pending_bytes=channel.pending_bytes,
            oldest_age=channel.oldest_age,
            waiting_senders=channel.waiting_senders,
            retries=self._consumer.retries,
            replayed=self._consumer.replayed,
        )

    @property
    def health(self) -> Health:
        """The state of the writer at this instant, for a readiness probe."""
        state, since, error = self._lifecycle.health()
        stats = self.stats
        return Health(
            state=state,
            since=since,
            error=error,
            pending=stats.pending,
            oldest_age=stats.oldest_age,
            spooled=max(0, stats.spooled - stats.replayed),
        )

    # -- the background

    async def __aenter__(self) -> Self:
        await self._lifecycle.open()
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
        await self._lifecycle.run(shutdown)

    async def wait_open(self, timeout: float | None = None) -> None:
        """Return once ``run`` accepts records. Raises what kept it from opening; ``TimeoutError`` after seconds."""
        async with asyncio.timeout(timeout):
            await self._lifecycle.wait_open()

    async def flush(self, timeout: float | None = None) -> None:
        """Return once everything accepted before the call has reached its end, whatever end that is.

        Raises ``TimeoutError`` after ``timeout`` seconds, ``WriterFailed`` when the background task died.
        """
        async with asyncio.timeout(timeout):
            await self._lifecycle.flush()

    async def begin_shutdown(self) -> None:
        """Say that ``aclose()`` follows: what is pending goes to the spool now, and the drain's time begins to run.

        For what ends before the writer does, as the capture middleware. Records are accepted until ``aclose()``.
        """
        await self._lifecycle.begin_shutdown()

    async def aclose(self, timeout: float | None = None) -> None:
        """Refuse new records, drain for up to ``timeout`` seconds (default ``drain_timeout``), settle the rest.

        With a spool everything pending is put there first, so that a process that is killed during the drain loses
        nothing. What is left at the deadline stays in the spool, or is counted as dropped and logged. Idempotent;
        cancelled, the drain goes on in the background and another call can wait for it.
        """
        await self._lifecycle.close(timeout)


def _signature() -> inspect.Signature:
    store = inspect.signature(RequestsWriter.__init__).parameters["store"]
    options = inspect.signature(Options).parameters.values()
    return inspect.Signature([store, *options])


# the options with their defaults, for help() and for whoever inspects: the source of both is Options
RequestsWriter.__signature__ = _signature()  # type: ignore[attr-defined]


def _sink_of(store: Any) -> RecordSink:
    # a class has the methods, too
    takes_records = isinstance(store, RecordSink) and not isinstance(store, type)
    return store if takes_records else RequestStore(store)


def check_type(record: CompletedRequest) -> None:
    """Raise ``TypeError`` for anything that is no ``CompletedRequest``."""
    if not isinstance(record, CompletedRequest):
        msg = f"record must be a CompletedRequest, not {type(record).__name__}"
        raise TypeError(msg)

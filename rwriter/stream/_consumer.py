"""From the stream to the database: each message is acknowledged after the commit of everything in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Unpack

from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter._chain.entries import Entry
from rwriter._database_errors import Kind, advice, backoff, describe, failure_of
from rwriter.engines import EngineProvider
from rwriter.errors import DatabaseRefused, RwriterError
from rwriter.ledger import Book, append_entries
from rwriter.store import RequestStore
from rwriter.stream import _telemetry as telemetry
from rwriter.stream._account import ENDS, Account
from rwriter.stream._connection import Connection, look_at_the_error
from rwriter.stream._messages import Letter, Unreadable
from rwriter.stream._options import ConsumeOptions, ConsumerStats, Options
from rwriter.stream._source import PartsMissing, Source
from rwriter.stream._subjects import Subjects
from rwriter.writer import Health
from rwriter.writer._delivery import Delivery
from rwriter.writer._options import Options as WriterOptions
from rwriter.writer._outage import Database, Outage
from rwriter.writer._pending import PendingRecord

FETCH_GRACE: Final = 0.05
"""Seconds that a request for a message, which waits for one to come, goes on after the shutdown: one that is on its way
then would be delivered again only after ``ack_wait``."""

START_TIMEOUT: Final = 10.0
"""Seconds the start check may take before the consumer goes on without it."""

LEDGER_GRACE: Final = 1.0
"""Seconds that the last entry of the ledger may take."""

RETURN_DELAY: Final = 2.0
"""Seconds before a message that was returned for the first time comes again; doubles."""

REMEMBERED: Final = 10_000
"""Most refused messages whose first refusal is remembered."""

log = logging.getLogger("rwriter")


class _Taken(NamedTuple):
    """A message in hand: its records, or the one record that was refused before, and why."""

    message: Msg
    letter: Letter | None
    entries: list[PendingRecord]


class _StreamOutage(Outage):
    """An outage of the database while the records wait in the stream."""

    @property
    def _meanwhile(self) -> str:
        return "records stay in the stream"


class StreamConsumer:
    """Stores what ``JetStreamStore`` published: retries, search for bad records and dead letters are the writer's.

    Any number of consumers, in any number of processes, share the messages of one ``durable``. A message whose consumer
    is killed is delivered again after ``ack_wait``, and what was stored of it is skipped then.

    ==================== ============ =====================================================================
    option               default      meaning
    ==================== ============ =====================================================================
    ``subject``          ``None``     the store's, if that is not ``<stream>.records``
    ``durable``          ``rwriter``  the name that the consumers share
    ``concurrency``      2            flushes at once, each on a connection of the pool
    ``ack_wait``         60 s         after which the message of a dead consumer goes to another
    ``return_delay``     60 s         most seconds before a message that was returned comes again
    ``max_retries``      3            attempts after the first; then the database counts as away
    ``retry_base_delay`` 0.1 s        the first delay; doubles, times a random 1 to 1.5
    ``retry_max_delay``  10 s         what the delay doubles up to
    ``flush_timeout``    60 s         one attempt, acquiring the connection included
    ``lag_interval``     5 s          between two looks at the stream's lag
    ``timeout``          5 s          for a connection to NATS, and for its answers
    ``ledger``           ``False``    write an entry beside each batch, for ``rwriter audit``
    ``check_schema``     ``True``     compare the database with head on start
    ``connect``          ``None``     options of ``nats.connect``: ``tls``, ``user_credentials``, ``token``
    ``name``             see below    in logs and metrics: ``rwriter-consume``
    ==================== ============ =====================================================================

    Raises ``ValueError`` naming the option that cannot be used; does no I/O until it runs.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        store: RequestStore | EngineProvider | AsyncEngine,
        *,
        stream: str,
        **options: Unpack[ConsumeOptions],
    ) -> None:
        self._options: Final = Options(**options)
        self.name: Final = self._options.name
        self._store: Final = store if isinstance(store, RequestStore) else RequestStore(store)
        self._subjects: Final = Subjects(stream, self._options.subject)
        self._connection: Final = Connection(
            servers, self._options.connect, name=self.name, timeout=self._options.timeout
        )
        self._account: Final = Account()
        writing = WriterOptions(
            max_retries=self._options.max_retries,
            retry_base_delay=self._options.retry_base_delay,
            retry_max_delay=self._options.retry_max_delay,
            flush_timeout=self._options.flush_timeout,
            name=self.name,
        )
        self._outage: Final = _StreamOutage(writing)
        self._book: Final = self._ledger() if self._options.ledger else None
        self._sink: Final = self._store if self._book is None else self._book.recording("stored")
        self._delivery: Final = Delivery(self._sink, self._account, writing, outage=self._outage)
        # when the message with a number was refused first: others that went in since say that it is to blame
        self._refused_at: Final[dict[int, int]] = {}
        self._stream_error: tuple[datetime, str] | None = None
        telemetry.watch(self)

    @property
    def stats(self) -> ConsumerStats:
        """The account, exact at this instant."""
        return self._account.stats

    @property
    def health(self) -> Health:
        """The state for a readiness probe: ``ok``, or ``holding`` while the database or the stream is away."""
        since, error = self._outage.since, self._outage.error
        up = self._outage.state is Database.UP
        if up and self._stream_error is not None:
            since, error, up = *self._stream_error, False
        return Health(
            state="ok" if up else "holding",
            since=since,
            error=None if up else error,
            pending=self.stats.pending,
            oldest_age=0.0,
            spooled=0,
        )

    async def run(self, shutdown: asyncio.Event) -> None:
        """Consume until ``shutdown`` is set, then finish what is in hand and return.

        Raises ``SchemaOutdated`` or ``DatabaseRefused`` on start. A database or a stream that is away is waited for.
        Cancelled, it loses nothing: what is in hand is delivered again.
        """
        try:
            if self._options.check_schema:
                await self._check_database()
            if self._book is not None:
                await self._book.open()
            async with asyncio.TaskGroup() as group:
                for number in range(self._options.concurrency):
                    group.create_task(self._work(shutdown), name=f"{self.name}-{number}")
                group.create_task(self._watch(shutdown), name=f"{self.name}-lag")
                group.create_task(self._hurry(shutdown), name=f"{self.name}-shutdown")
        finally:
            if self._book is not None:
                await self._book.close(LEDGER_GRACE)
            await self._connection.aclose()

    def _ledger(self) -> Book:
        return Book(
            self._store,
            name=self.name,
            account=lambda: {name: getattr(self.stats, name) for name in ("received", *ENDS, "returned", "pending")},
            is_up=lambda: self._outage.state is Database.UP,
            durability="stream",
        )

    async def _check_database(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._store.check_schema()
        except RwriterError:
            raise
        except Exception as exc:  # noqa: BLE001 -- away: the messages wait
            if failure_of(exc) is Kind.CONFIGURATION:
                raise DatabaseRefused(f"cannot use the database: {describe(exc)}: {advice(exc)}") from None
            self._outage.retries_spent(exc)

    async def _hurry(self, shutdown: asyncio.Event) -> None:
        await shutdown.wait()
        self._outage.hurry()

    async def _work(self, shutdown: asyncio.Event) -> None:
        source = Source(self._connection, self._subjects, self._options)
        failures = 0
        while not shutdown.is_set():
            async with self._outage.turn(done=shutdown.is_set) as probing:
                if probing:
                    await self._delivery.ask()
                    continue
                if shutdown.is_set():
                    return
            try:
                await self._store_messages(source, await _until(shutdown, source.fetch()))
            except RwriterError as exc:
                self._lost(exc)
                await _wait(shutdown, self._delay(failures))
                failures += 1
            else:
                self._found()
                failures = 0

    def _delay(self, attempt: int) -> float:
        return backoff(attempt, base=self._options.retry_base_delay, maximum=self._options.retry_max_delay)

    def _lost(self, exc: RwriterError) -> None:
        if self._stream_error is None:
            log.warning("%s: the stream is away, %s: trying again", self.name, describe(exc))
            self._stream_error = datetime.now(UTC), describe(exc)

    def _found(self) -> None:
        if self._stream_error is not None:
            log.warning("%s: the stream is back", self.name)
            self._stream_error = None

    # -- one message

    async def _store_messages(self, source: Source, fetched: Sequence[Msg]) -> None:
        taken = [each for each in [await self._read(source, message) for message in fetched] if each is not None]
        if not taken:
            return
        async with source.held([each.message for each in taken]):
            await self._deliver(taken)
        for message, _, entries in taken:
            if all(entry.fate in ENDS for entry in entries):
                await self._acknowledge(source, message)
            else:
                telemetry.count(self.name, "returned", redelivered=message.metadata.num_delivered > 1)
                await source.give_back(message, self._return_delay(message))

    async def _read(self, source: Source, message: Msg) -> _Taken | None:
        """Return what is in a message, or ``None`` for one that nothing is to be stored of."""
        self.stats.redelivered += message.metadata.num_delivered > 1
        try:
            contents = await source.contents(message)
        except PartsMissing as exc:
            if await self._is_finished(exc):
                await self._acknowledge(source, message)
            else:
                await self._leave(source, message, exc)
        except Unreadable as exc:
            await self._leave(source, message, exc)
        else:
            if contents.entries:
                await self._append(source, message, contents.entries)
                return None
            number, now = message.metadata.sequence.stream, time.monotonic()
            refused_at = self._refused_at.pop(number, None)
            return _Taken(
                message,
                contents.letter,
                [PendingRecord(each, each.text_bytes, number, now, refused_at=refused_at) for each in contents.records],
            )
        return None

    async def _append(self, source: Source, message: Msg, entries: Sequence[Entry]) -> None:
        """Write the entries of a writer's ledger: those that are there already are the same."""
        try:
            async with asyncio.timeout(self._options.flush_timeout):
                await append_entries(self._store, entries)
        except Exception as exc:  # noqa: BLE001 -- whatever it is, they stay in the stream
            log.warning("%s: cannot write to the ledger: %s", self.name, describe(exc))
            await source.give_back(message, self._return_delay(message))
        else:
            await self._acknowledge(source, message)

    async def _deliver(self, taken: Sequence[_Taken]) -> None:
        """Store the records of messages together, and put those that were refused before into ``dead_letters``."""
        self._account.received(sum(len(each.entries) for each in taken))
        try:
            together = [entry for each in taken if each.letter is None for entry in each.entries]
            if together:
                await self._delivery.deliver(together)
            for each in taken:
                if each.letter is not None:
                    await self._bury(each.entries, each.letter)
        finally:
            for each in taken:
                left = [entry for entry in each.entries if entry.fate not in ENDS]
                self._account.returned(len(left))
                self._remember(each.message.metadata.sequence.stream, left)

    async def _bury(self, entries: Sequence[PendingRecord], letter: Letter) -> None:
        record = entries[0].record
        try:
            async with asyncio.timeout(self._options.flush_timeout):
                await self._sink.bury(record, sqlstate=letter.sqlstate, error=letter.error)
        except Exception as exc:  # noqa: BLE001 -- whatever it is, the letter stays in the stream
            log.warning("%s: cannot bury record %s: %s", self.name, record.request_id, describe(exc))
        else:
            self._account.settle(entries, "dead")

    def _remember(self, number: int, left: list[PendingRecord]) -> None:
        refusals = [entry.refused_at for entry in left if entry.refused_at is not None]
        if refusals:
            self._refused_at[number] = min(refusals)
        while len(self._refused_at) > REMEMBERED:
            del self._refused_at[next(iter(self._refused_at))]

    async def _is_finished(self, missing: PartsMissing) -> bool:
        try:
            return missing.request_id in await self._store.finished_ids([missing.request_id])
        except Exception as exc:  # noqa: BLE001 -- asked again when the message comes again
            log.warning("%s: cannot look up %s: %s", self.name, missing.request_id, describe(exc))
            return False

    async def _acknowledge(self, source: Source, message: Msg) -> None:
        await source.acknowledge(message)
        self.stats.messages += 1
        telemetry.count(self.name, "acknowledged", redelivered=message.metadata.num_delivered > 1)

    async def _leave(self, source: Source, message: Msg, exc: Unreadable) -> None:
        """Leave a message in the stream that nobody here can read: a later release may."""
        metadata = message.metadata
        self.stats.unreadable += 1
        log.error(
            "%s: message %d of stream %s cannot be read, %s: it stays there",
            self.name,
            metadata.sequence.stream,
            self._subjects.stream,
            exc,
        )
        telemetry.count(self.name, "unreadable", redelivered=metadata.num_delivered > 1)
        await source.give_back(message, self._options.return_delay)

    def _return_delay(self, message: Msg) -> float:
        # Longer than the pause that follows a refusal: a message that comes again is delivered before new ones, and
        # whether a record in it is to blame is known when others went in before it.
        most = self._options.return_delay
        return min(most, backoff(message.metadata.num_delivered - 1, base=RETURN_DELAY, maximum=most))

    # -- the lag

    async def _watch(self, shutdown: asyncio.Event) -> None:
        source = Source(self._connection, self._subjects, self._options)
        while not shutdown.is_set():
            try:
                self.stats.lag = await source.lag()
            except RwriterError as exc:
                # the consumer may not be there yet
                log.debug("%s: cannot tell the lag: %s", self.name, describe(exc))
            await _wait(shutdown, self._options.lag_interval)


async def consume(
    servers: str | Sequence[str],
    store: RequestStore | EngineProvider | AsyncEngine,
    shutdown: asyncio.Event,
    *,
    stream: str,
    **options: Unpack[ConsumeOptions],
) -> ConsumerStats:
    """Store the records of ``stream`` until ``shutdown`` is set, and return the account. See ``StreamConsumer``."""
    consumer = StreamConsumer(servers, store, stream=stream, **options)
    await consumer.run(shutdown)
    return consumer.stats


async def _until(shutdown: asyncio.Event, fetch: Coroutine[Any, Any, list[Msg]]) -> list[Msg]:
    """Return what ``fetch`` returns, or nothing where it still waits when ``shutdown`` is set."""
    fetching, stopping = asyncio.ensure_future(fetch), asyncio.ensure_future(shutdown.wait())
    fetching.add_done_callback(look_at_the_error)
    try:
        await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not fetching.done():
            await asyncio.wait({fetching}, timeout=FETCH_GRACE)
        return fetching.result() if fetching.done() else []
    finally:
        fetching.cancel()
        stopping.cancel()


async def _wait(shutdown: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await shutdown.wait()

"""From the stream to the database: each message is acknowledged after the commit of everything in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Unpack

from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter._database_errors import Kind, advice, backoff, describe, failure_of
from rwriter.engines import EngineProvider
from rwriter.errors import DatabaseRefused, RwriterError
from rwriter.store import RequestStore
from rwriter.stream import _telemetry as telemetry
from rwriter.stream._connection import Connection
from rwriter.stream._messages import Unreadable
from rwriter.stream._options import ConsumeOptions, ConsumerStats, Options
from rwriter.stream._source import Contents, PartsMissing, Source
from rwriter.stream._subjects import Subjects
from rwriter.writer import Health
from rwriter.writer._account import Fate
from rwriter.writer._delivery import Delivery
from rwriter.writer._options import Options as WriterOptions
from rwriter.writer._outage import Database, Outage
from rwriter.writer._pending import PendingRecord

FETCH_GRACE: Final = 0.05
"""Seconds that a request for a message, which waits for one to come, goes on after the shutdown: one that is on its way
then would be delivered again only after ``ack_wait``."""

START_TIMEOUT: Final = 10.0
"""Seconds the start check may take before the consumer goes on without it."""

RETURN_DELAY: Final = 2.0
"""Seconds before a message that was returned for the first time comes again; doubles."""

REMEMBERED: Final = 10_000
"""Most refused messages whose first refusal is remembered."""

log = logging.getLogger("rwriter")


class _StreamOutage(Outage):
    """An outage of the database while the records wait in the stream."""

    @property
    def _meanwhile(self) -> str:
        return "records stay in the stream"


class _Account:
    """Gives records their fate, and counts them in ``stats``."""

    def __init__(self) -> None:
        self.stats: Final = ConsumerStats()

    def settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        """Give ``entries`` their fate. ``dropped`` is none here: such a record is returned with its message."""
        del error
        settled = [entry for entry in entries if entry.fate is None]
        for entry in settled:
            entry.fate = fate
        if fate in {"persisted", "skipped", "dead"}:
            setattr(self.stats, fate, getattr(self.stats, fate) + len(settled))
            self.stats.pending -= len(settled)
        return len(settled)

    def received(self, number: int) -> None:
        """Count records that were taken out of a message."""
        self.stats.received += number
        self.stats.pending += number

    def returned(self, number: int) -> None:
        """Count records that go back with their message."""
        self.stats.returned += number
        self.stats.pending -= number


class StreamConsumer:
    """Stores what ``JetStreamStore`` published: retries, search for bad records and dead letters are the writer's.

    Any number of consumers, in any number of processes, share the messages of one ``durable``. A message whose consumer
    is killed is delivered again after ``ack_wait``, and what was stored of it is skipped then.

    ==================== ============ =====================================================================
    option               default      meaning
    ==================== ============ =====================================================================
    ``subject``          ``None``     the store's, if that is not ``<stream>.records``
    ``durable``          ``rwriter``  the name that the consumers share
    ``concurrency``      2            messages in hand at once, each on a connection of the pool
    ``ack_wait``         60 s         after which the message of a dead consumer goes to another
    ``return_delay``     60 s         most seconds before a message that was returned comes again
    ``max_retries``      3            attempts after the first; then the database counts as away
    ``retry_base_delay`` 0.1 s        the first delay; doubles, times a random 1 to 1.5
    ``retry_max_delay``  10 s         what the delay doubles up to
    ``flush_timeout``    60 s         one attempt, acquiring the connection included
    ``lag_interval``     5 s          between two looks at the stream's lag
    ``timeout``          5 s          for a connection to NATS, and for its answers
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
        self._account: Final = _Account()
        writing = WriterOptions(
            max_retries=self._options.max_retries,
            retry_base_delay=self._options.retry_base_delay,
            retry_max_delay=self._options.retry_max_delay,
            flush_timeout=self._options.flush_timeout,
            name=self.name,
        )
        self._outage: Final = _StreamOutage(writing)
        self._delivery: Final = Delivery(self._store, self._account, writing, outage=self._outage)
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
            async with asyncio.TaskGroup() as group:
                for number in range(self._options.concurrency):
                    group.create_task(self._work(shutdown), name=f"{self.name}-{number}")
                group.create_task(self._watch(shutdown), name=f"{self.name}-lag")
                group.create_task(self._hurry(shutdown), name=f"{self.name}-shutdown")
        finally:
            await self._connection.aclose()

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
                message = await _until(shutdown, source.fetch())
                if message is not None:
                    await self._store_message(source, message)
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

    async def _store_message(self, source: Source, message: Msg) -> None:
        redelivered = message.metadata.num_delivered > 1
        self.stats.redelivered += redelivered
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
            async with _held(source, message):
                stored = await self._deliver(message, contents)
            if stored:
                await self._acknowledge(source, message)
            else:
                await source.give_back(message, self._return_delay(message))
                telemetry.count(self.name, "returned", redelivered=redelivered)

    async def _deliver(self, message: Msg, contents: Contents) -> bool:
        """Store the records of a message. Returns True if each of them has its end in the database."""
        number = message.metadata.sequence.stream
        now = time.monotonic()
        refused_at = self._refused_at.pop(number, None)
        entries = [
            PendingRecord(record, record.text_bytes, number, now, refused_at=refused_at) for record in contents.records
        ]
        self._account.received(len(entries))
        try:
            if contents.letter is None:
                await self._delivery.deliver(entries)
            else:
                await self._bury(entries, contents)
        finally:
            left = [entry for entry in entries if entry.fate in {None, "dropped"}]
            self._account.returned(len(left))
            self._remember(number, left)
        return not left

    async def _bury(self, entries: list[PendingRecord], contents: Contents) -> None:
        """Put a record that was refused before the stream into ``dead_letters``."""
        if contents.letter is None:
            return
        try:
            async with asyncio.timeout(self._options.flush_timeout):
                await self._store.bury(
                    contents.records[0], sqlstate=contents.letter.sqlstate, error=contents.letter.error
                )
        except Exception as exc:  # noqa: BLE001 -- whatever it is, the letter stays in the stream
            log.warning("%s: cannot bury record %s: %s", self.name, contents.records[0].request_id, describe(exc))
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


@contextlib.asynccontextmanager
async def _held(source: Source, message: Msg) -> AsyncIterator[None]:
    """Keep ``message`` from being delivered to another consumer for as long as the block takes."""

    async def hold() -> None:
        while True:
            await asyncio.sleep(source.ack_wait / 3)
            with contextlib.suppress(RwriterError):
                await source.hold(message)

    holding = asyncio.create_task(hold(), name="rwriter-consume-hold")
    try:
        yield
    finally:
        holding.cancel()


async def _until(shutdown: asyncio.Event, fetch: Coroutine[Any, Any, Msg | None]) -> Msg | None:
    """Return what ``fetch`` returns, or ``None`` where it still waits when ``shutdown`` is set."""
    fetching, stopping = asyncio.ensure_future(fetch), asyncio.ensure_future(shutdown.wait())
    try:
        await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not fetching.done():
            await asyncio.wait({fetching}, timeout=FETCH_GRACE)
        return fetching.result() if fetching.done() else None
    finally:
        fetching.cancel()
        stopping.cancel()


async def _wait(shutdown: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await shutdown.wait()

"""The taking end of a stream: messages of a durable consumer that any number of processes share."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from rwriter._chain.entries import Entry
from rwriter.errors import RwriterError, SinkMisconfigured
from rwriter.records import CompletedRequest
from rwriter.stream import _messages as messages
from rwriter.stream._connection import Connection
from rwriter.stream._messages import Letter, Unreadable
from rwriter.stream._options import Options
from rwriter.stream._subjects import Subjects

FETCH_SECONDS: Final = 1.0
"""Seconds that a request for a message waits for one."""

MORE_SECONDS: Final = 0.1
"""Seconds that a request for messages that are there waits for them: another consumer may have taken them since."""

SMALL: Final = 32 * 1024
"""Bytes up to which a message is stored together with others; a larger one is a batch by itself."""

TOGETHER: Final = 32
"""Most messages that are stored together."""

MOST_UNACKNOWLEDGED: Final = 1_000
"""Messages that all consumers together may have in hand."""


class Contents(NamedTuple):
    """What a message holds: records to store, one that was refused, or entries of a ledger."""

    records: list[CompletedRequest]
    letter: Letter | None = None
    entries: Sequence[Entry] = ()


class PartsMissing(Unreadable):
    """The parts of a record are gone: it was stored before, by a consumer that acknowledged another copy of it."""

    def __init__(self, request_id: uuid.UUID) -> None:
        super().__init__("its parts are missing")
        self.request_id: Final = request_id


class Source:
    """Fetches messages over a subscription, made anew when its connection is another."""

    def __init__(self, connection: Connection, subjects: Subjects, options: Options) -> None:
        self._connection: Final = connection
        self._subjects: Final = subjects
        self._options: Final = options
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._subscribed_on: Client | None = None
        self.ack_wait = options.ack_wait
        """Seconds after which the server gives a message that was not acknowledged to another consumer."""

    async def fetch(self) -> list[Msg]:
        """Return messages to store together, or none when none came within a second.

        Raises one of the errors of a sink.
        """
        client = await self._connection.client()
        if self._subscription is None or self._subscribed_on is not client:
            self._subscription = await self._connection.call(self._subscribe)
            self._subscribed_on = client
        subscription = self._subscription
        try:
            return await self._connection.call(lambda _: _fetched(subscription))
        except BaseException:
            # whatever it was, a deleted consumer for one: a fresh subscription finds out
            self._subscription = None
            raise

    async def lag(self) -> int:
        """Return how many messages are not acknowledged. Raises one of the errors of a sink."""
        info = await self._connection.call(
            lambda stream: stream.consumer_info(self._subjects.stream, self._options.durable)
        )
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def contents(self, message: Msg) -> Contents:
        """Return what is in ``message``. Raises ``Unreadable``, or one of the errors of a sink."""
        headers = message.headers or {}
        payload = await self._payload(message) if messages.PARTS in headers else message.data
        content = headers.get(messages.CONTENT)
        if content == messages.RECORDS:
            return Contents(await messages.aside(len(payload), messages.unpack_records, payload))
        if content == messages.LETTER:
            record, letter = await messages.aside(len(payload), messages.unpack_letter, payload)
            return Contents([record], letter)
        if content == messages.ENTRIES:
            return Contents([], entries=messages.unpack_entries(payload))
        raise Unreadable("unknown content")

    async def acknowledge(self, message: Msg) -> None:
        """Take ``message`` out of the stream, and its parts if it has any."""
        digest = (message.headers or {}).get(messages.DIGEST)
        if digest is None:
            await self._connection.call(lambda _: message.ack())
            return
        # in this order: parts without their message are waste, a message without its parts is a riddle
        await self._connection.call(lambda _: message.ack_sync(self._options.timeout))
        await self._connection.call(
            lambda stream: stream.purge_stream(self._subjects.stream, subject=self._subjects.parts_of(digest))
        )

    async def give_back(self, message: Msg, seconds: float) -> None:
        """Have ``message`` delivered again, here or elsewhere, after ``seconds``."""
        await self._connection.call(lambda _: message.nak(delay=seconds))

    async def hold(self, message: Msg) -> None:
        """Tell the server that ``message`` is being worked on."""
        await self._connection.call(lambda _: message.in_progress())

    @contextlib.asynccontextmanager
    async def held(self, messages: Sequence[Msg]) -> AsyncIterator[None]:
        """Keep ``messages`` from being delivered to another consumer for as long as the block takes."""

        async def hold() -> None:
            while True:
                await asyncio.sleep(self.ack_wait / 3)
                with contextlib.suppress(RwriterError):
                    for message in messages:
                        await self.hold(message)

        holding = asyncio.create_task(hold(), name="rwriter-consume-hold")
        try:
            yield
        finally:
            holding.cancel()

    async def _subscribe(self, stream: JetStreamContext) -> JetStreamContext.PullSubscription:
        name, durable = self._subjects.stream, self._options.durable
        try:
            self._subjects.check((await stream.stream_info(name)).config)
        except NotFoundError as exc:
            raise SinkMisconfigured(f"there is no stream {name}") from exc
        try:
            info = await stream.consumer_info(name, durable)
        except NotFoundError:
            info = await stream.add_consumer(
                name,
                durable_name=durable,
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=self._options.ack_wait,
                filter_subject=self._subjects.records,
                max_ack_pending=MOST_UNACKNOWLEDGED,
            )
        self._subjects.check_durable(durable, info.config)
        self.ack_wait = info.config.ack_wait or self._options.ack_wait
        return await stream.pull_subscribe_bind(durable, stream=name)

    async def _payload(self, message: Msg) -> bytes:
        headers = message.headers or {}
        try:
            number, digest = int(headers[messages.PARTS]), headers[messages.DIGEST]
            request_id = uuid.UUID(headers[messages.REQUEST_ID])
        except (KeyError, ValueError) as exc:
            raise Unreadable("headers") from exc
        try:
            payload = b"".join([await self._part(digest, part) for part in range(number)])
        except NotFoundError as exc:
            raise PartsMissing(request_id) from exc
        if messages.digest_of(payload) != digest:
            raise Unreadable("its parts are not what was published")
        return payload

    async def _part(self, digest: str, number: int) -> bytes:
        subject = self._subjects.part(digest, number)

        async def read(stream: JetStreamContext) -> bytes | None:
            try:
                return (await stream.get_last_msg(self._subjects.stream, subject)).data
            except NotFoundError:
                return None

        found = await self._connection.call(read)
        if found is None:
            raise NotFoundError
        return found


async def _fetched(subscription: JetStreamContext.PullSubscription) -> list[Msg]:
    # One first, as the client waits for all that it is asked for. The server says with it how many there are.
    fetched = await _at_most(subscription, 1, FETCH_SECONDS)
    if fetched and len(fetched[0].data) <= SMALL:
        more = min(TOGETHER - 1, fetched[0].metadata.num_pending)
        if more:
            fetched += await _at_most(subscription, more, MORE_SECONDS)
    return fetched


async def _at_most(subscription: JetStreamContext.PullSubscription, number: int, seconds: float) -> list[Msg]:
    try:
        return await subscription.fetch(number, timeout=seconds)
    except errors.TimeoutError:
        return []

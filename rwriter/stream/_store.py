"""``JetStreamStore``: a sink that publishes each batch as one message and returns when the stream has it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from rwriter._chain.entries import Entry
from rwriter._validation import at_least, positive
from rwriter.errors import SinkMisconfigured
from rwriter.records import CompletedRequest
from rwriter.store import PersistResult
from rwriter.stream import _messages as messages
from rwriter.stream._connection import Connection
from rwriter.stream._subjects import Subjects

HEADER_BYTES: Final = 512
"""Bytes of a message that its headers may take: they count towards the server's ``max_payload``."""

DUPLICATE_WINDOW: Final = 120.0
"""Seconds for which a stream that is made here knows the id of a message, and drops the same one."""


class JetStreamStore:
    """Takes records into a stream of NATS JetStream; ``rwriter.consume`` brings them from there to the database.

    ``RequestsWriter(JetStreamStore("nats://...", stream="requests"))``: the writer's account then says ``persisted``
    for what the stream has acknowledged, on disk and on as many servers as it has replicas.

    ``servers`` is a URL, several with commas between them, or a list; name every server of a cluster. ``subject``
    defaults to ``<stream>.records``. ``timeout`` (seconds, default 5) bounds a connection and an acknowledgement.
    ``connect`` has options of ``nats.connect`` (``tls``, ``user_credentials``, ``token``).

    A batch is one message. Where it is over the server's ``max_payload`` or the stream's ``max_msg_size`` it is split,
    and a single record that still is goes in parts, so that no record is too large. A full stream (``discard: new``)
    counts as away: records go to the spool, or wait in the buffer and senders with them.

    The constructor does no I/O. Close it with ``aclose()``, or use ``async with``: the writer does not.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        stream: str,
        subject: str | None = None,
        timeout: float = 5.0,
        connect: Mapping[str, Any] | None = None,
    ) -> None:
        positive("timeout", timeout)
        self._subjects: Final = Subjects(stream, subject)
        self._timeout: Final = timeout
        self._connection: Final = Connection(servers, connect, name=f"rwriter {stream}", timeout=timeout)
        # the most bytes of a payload, and the connection on which that was asked for
        self._limit = 0
        self._limit_of: Client | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        await self._connection.aclose()

    # -- the sink

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        """Publish ``records`` and return when the stream has acknowledged all of them. See ``RecordSink``.

        Of an id given twice the first is published. ``inserted`` counts what was published: if a row is there already,
        the consumer finds out.
        """
        batch = list(records)
        first = {record.request_id: record for record in reversed(batch)}
        unique = [record for record in batch if first[record.request_id] is record]
        if unique:
            await self._publish_records(unique)
        return PersistResult(len(unique), 0, len(batch) - len(unique), frozenset(first))

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        """Publish a refused record beside the reason: the consumer puts it into ``dead_letters``."""
        payload = await messages.aside(
            record.text_bytes, lambda: messages.pack_letter(record, sqlstate=sqlstate, error=error)
        )
        await self._publish(messages.LETTER, payload, record.request_id, await self._most_bytes())

    async def append_entries(self, entries: Sequence[Entry]) -> None:
        """Publish entries of a ledger: the consumer brings them to the database, once, however often they come."""
        payload = messages.pack_entries(entries)
        most = await self._most_bytes()
        if len(payload) <= most or len(entries) == 1:
            await self._publish(messages.ENTRIES, payload, entries[0].lane, most)
            return
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            await self.append_entries(half)

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Ask the stream whether it is there, and return no id: what is in it is not known by id."""
        del ids
        await self._connection.call(self._info)
        return set()

    async def check_schema(self) -> None:
        """Raise ``SinkMisconfigured`` where the stream is missing, or is set up in a way that loses records."""
        self._subjects.check((await self._connection.call(self._info)).config)

    async def identity(self) -> str:
        """Return the names of the cluster and the stream."""
        info = await self._connection.call(self._info)
        cluster = info.cluster.name if info.cluster is not None else None
        return f"jetstream/{cluster or ''}/{self._subjects.stream}"

    # -- setting up

    async def create_stream(self, *, max_bytes: int, replicas: int = 1) -> None:
        """Make the stream, unless it is there: on disk, for one durable consumer, refusing what finds no room.

        ``max_bytes`` is what it may take of each server's disk. With ``replicas=3`` an acknowledged record outlives the
        disk of one server; with one replica it does not. Raises ``SinkMisconfigured`` where the stream is there and
        would lose records.
        """
        at_least("max_bytes", max_bytes, 1)
        at_least("replicas", replicas, 1)
        config = api.StreamConfig(
            name=self._subjects.stream,
            subjects=[self._subjects.records, self._subjects.all_parts],
            retention=api.RetentionPolicy.WORK_QUEUE,
            storage=api.StorageType.FILE,
            discard=api.DiscardPolicy.NEW,
            duplicate_window=DUPLICATE_WINDOW,
            max_bytes=max_bytes,
            num_replicas=replicas,
        )
        try:
            await self.check_schema()
        except SinkMisconfigured:
            await self._connection.call(lambda stream: stream.add_stream(config))
            await self.check_schema()

    # -- inside

    async def _info(self, stream: JetStreamContext) -> api.StreamInfo:
        try:
            return await stream.stream_info(self._subjects.stream)
        except NotFoundError as exc:
            msg = f"there is no stream {self._subjects.stream}: make it with JetStreamStore.create_stream()"
            raise SinkMisconfigured(msg) from exc

    async def _most_bytes(self) -> int:
        client = await self._connection.client()
        if client is not self._limit_of:
            config = (await self._connection.call(self._info)).config
            limits = [client.max_payload, config.max_msg_size or -1]
            self._limit = max(1, min(limit for limit in limits if limit > 0) - HEADER_BYTES)
            self._limit_of = client
        return self._limit

    async def _publish_records(self, records: Sequence[CompletedRequest]) -> None:
        payload = await messages.aside(messages.text_bytes(records), messages.pack_records, records)
        most = await self._most_bytes()
        if len(payload) <= most or len(records) == 1:
            await self._publish(messages.RECORDS, payload, records[0].request_id, most)
            return
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            await self._publish_records(half)

    async def _publish(self, content: str, payload: bytes, request_id: uuid.UUID, most: int) -> None:
        digest = messages.digest_of(payload)
        headers = {messages.CONTENT: content}
        if len(payload) > most:
            parts = [payload[start : start + most] for start in range(0, len(payload), most)]
            # the message that names them last: a consumer never finds it without them
            for number, part in enumerate(parts):
                await self._acknowledged(self._subjects.part(digest, number), part, f"{digest}.{number}", {})
            headers |= {
                messages.PARTS: str(len(parts)),
                messages.DIGEST: digest,
                messages.REQUEST_ID: str(request_id),
            }
            payload = b""
        await self._acknowledged(self._subjects.records, payload, digest, headers)

    async def _acknowledged(self, subject: str, payload: bytes, message_id: str, headers: dict[str, str]) -> None:
        """Publish a message and wait for the stream's acknowledgement; the same id again is stored once."""
        named = {**headers, api.Header.MSG_ID: message_id}
        await self._connection.call(
            lambda stream: stream.publish(
                subject, payload, timeout=self._timeout, stream=self._subjects.stream, headers=named
            )
        )

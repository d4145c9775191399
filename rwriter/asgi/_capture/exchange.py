"""Everything that passes between the client and the app: messages go through untouched, both bodies are copied."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from rwriter.asgi._capture.body import Body, truncated
from rwriter.asgi._capture.budget import Part, Share
from rwriter.asgi._capture.client import ClientWatch
from rwriter.asgi._capture.endings import DISCONNECTED, NO_ANSWER, TRUNCATED, Failure
from rwriter.asgi._capture.stream import LINES_OF_JSON, StreamedBody, begins_as_events, pieces_in
from rwriter.asgi._fold.stream import StreamError
from rwriter.asgi._ids import response_id
from rwriter.asgi._types import Message, Receive, Send, content_encoding, header
from rwriter.records import succeeded

ID_HEADER: Final = b"x-rwriter-id"
MESSAGE_BYTES: Final = 512
"""Bytes charged for a message beside its body: of pieces of one byte it is nearly all that is held."""


class Answer:
    """Status, headers and body of the app's answer, as far as it has come."""

    def __init__(self, max_body_bytes: int, share: Share) -> None:
        self.status = 0
        self._max_body_bytes: Final = max_body_bytes
        self._headers: list[tuple[bytes, bytes]] = []
        self._allow: Final = Part(share)
        self._whole: Final = Body(max_body_bytes, self._allow)
        self._stream: StreamedBody | None = None
        self._announced = False
        # the first bytes, until they tell whether this is a stream
        self._head: bytearray | None = None
        self._lost = 0
        """Bytes of a stream that no memory was left for."""

    def start(self, message: Message) -> None:
        """Take status and headers from ``http.response.start``."""
        self._stream, self._head = None, None
        self.status = message["status"]
        self._headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        content_type = (header(self._headers, b"content-type") or "").partition(";")[0].strip().lower()
        self._announced = content_type == "text/event-stream"
        if self._announced or content_type in LINES_OF_JSON:
            self._stream = StreamedBody(self.content_encoding, self._max_body_bytes)
        elif succeeded(self.status) and self.content_encoding is None:
            self._head = bytearray()

    def feed(self, data: bytes) -> None:
        """Add the next piece of the body. A stream that the budget has no room for is not followed further."""
        if self._head is not None:
            self._head += data
            is_stream = begins_as_events(self._head)
            if is_stream is None:
                return
            data, self._head = bytes(self._head), None
            if is_stream:
                self._stream = StreamedBody(None, self._max_body_bytes)
        stream = self._stream
        if stream is None:
            self._whole.feed(data)
        elif self._lost or not self._allow(stream.held_bytes + len(data)):
            self._lost += len(data)
        else:
            stream.feed(data)

    @property
    def is_undecided(self) -> bool:
        """True while nobody knows whether the end of the answer has come: ``text`` finds out."""
        return self._stream is not None and self._stream.is_undecided

    @property
    def is_truncated(self) -> bool:
        """True for a stream of a known kind whose end marker has not come."""
        if self._stream is None or self._lost:
            return False
        if self._stream.known:
            return not self._stream.ended
        return self._announced and succeeded(self.status) and self._stream.is_silent

    @property
    def is_complete(self) -> bool:
        """True if nothing is missing although the app has not said so: an end marker, or the announced length, came."""
        self._settle_head()
        if self._stream is not None:
            return self._stream.ended
        length = header(self._headers, b"content-length")
        return self.status > 0 and length is not None and length.isdigit() and self._whole.size >= int(length)

    @property
    def held_bytes(self) -> int:
        """Bytes of the body in memory, roughly."""
        held = self._whole.kept if self._stream is None else self._stream.held_bytes
        return held + len(self._head or b"")

    @property
    def other_id(self) -> str | None:
        """An id that the client has seen beside the one in the text of a stream, if its id has changed."""
        return None if self._stream is None else self._stream.other_id

    def text(self) -> tuple[str, StreamError | None]:
        """Return the text to store and, for a stream, its error frame."""
        self._settle_head()
        if self._stream is None:
            return self._whole.text(self.content_encoding), None
        text, error = self._stream.text()
        return (truncated(text, len(text) + self._lost) if self._lost else text), error

    def folded(self, text: str) -> tuple[str, StreamError | None, bool] | None:
        """Return what a whole body of pieces folds to, its error, and True if it was cut; ``None`` for another body."""
        pieces = None if self._stream is not None else pieces_in(text)
        if pieces is None:
            return None
        lines = StreamedBody(None, self._max_body_bytes)
        lines.feed(pieces.lines.encode("utf-8", "replace"))
        lines.settle()
        return (*lines.text(), not (lines.ended or pieces.closed)) if lines.known else None

    def _settle_head(self) -> None:
        """Take a body for a plain one that ended before it could be told."""
        if self._head is not None:
            data, self._head = bytes(self._head), None
            self._whole.feed(data)

    @property
    def content_encoding(self) -> str | None:
        """The codings of the body."""
        return content_encoding(self._headers)


class Exchange:
    """Stands between the server and the app. Calls ``finish`` when what passes says how the call ended.

    ``finish(None)`` means a complete answer.
    """

    def __init__(
        self, request_id: uuid.UUID, *, max_body_bytes: int, share: Share, finish: Callable[[Failure | None], None]
    ) -> None:
        self.request: Final = Body(max_body_bytes, Part(share))
        self.answer: Final = Answer(max_body_bytes, share)
        self.watch: Final = ClientWatch()
        self.first_byte_at: datetime | None = None
        """When the first byte of the answer had left."""
        self.guard: Callable[[Send], Awaitable[bool]] | None = None
        """Asked once, when the app has read the request to its end: True if it has answered in the app's place."""
        self.is_refused = False
        """True once ``guard`` has answered. What the app says then reaches nobody."""
        self._recording = True
        self._request_id: Final = request_id
        self._finish = finish
        self._share: Final = share
        # each message with the bytes of the budget that it has beside those of the copy
        self._read_ahead: Final[deque[tuple[Message, int]]] = deque()
        self._is_read = False

    @property
    def held_bytes(self) -> int:
        """Bytes of both bodies in memory, roughly."""
        return self.request.kept + self.answer.held_bytes

    def stop_recording(self) -> None:
        """Let messages pass without copying anything from now on: the call has ended."""
        self._recording = False
        # `finish` belongs to the call, which holds this object: the cycle would keep both bodies in memory until the
        # garbage collector finds it
        self._finish = _discard

    @property
    def unfinished(self) -> Failure:
        """The ending of a call whose app returned without having said that its answer is complete."""
        return TRUNCATED if self.answer.status else NO_ANSWER

    # -- from the client to the app

    async def read_ahead(self, receive: Receive, patience: float) -> bool:
        """Read the request's body before the app asks for it. Return True if all of it came, within the limit.

        Raises ``TimeoutError`` if the client sends nothing for ``patience`` seconds; what came before is not lost.
        """
        while not self._is_read and not self.request.overflowed:
            # servers expect a cancelled receive(): it is how frameworks ask whether the client is still there
            async with asyncio.timeout(patience):
                message = await self._receive_next(receive)
            # once for the app, and once for the copy, which shares the large pieces with it until it is read
            size = len(message.get("body", b"")) + MESSAGE_BYTES
            is_charged = self._share.take(size)
            self._read_ahead.append((message, size if is_charged else 0))
            if message["type"] == "http.disconnect" or not is_charged:
                return False
            if not self._is_read:
                # a server hands over at once what it has: megabytes of many calls would be copied in one turn
                await asyncio.sleep(0)
        return not self.request.overflowed

    def forget_what_was_read(self) -> None:
        """Give up the messages read ahead of an app that is not to have them."""
        while self._read_ahead:
            self._hand_over()

    def _hand_over(self) -> Message:
        message, charged = self._read_ahead.popleft()
        self._share.take(-charged)
        return message

    async def receive(self, receive: Receive, send: Send) -> Message:
        """Return the next message for the app, from the server's ``receive`` or from what was read ahead."""
        if self._read_ahead:
            message = self._hand_over()
        else:
            message = await (self.watch.next_message(receive) if self._is_read else self._receive_next(receive))
        if self.guard is not None and self._is_read and not self._read_ahead:
            await self._ask_guard(self.guard, send)
        return {"type": "http.disconnect"} if self.is_refused else message

    async def _ask_guard(self, guard: Callable[[Send], Awaitable[bool]], send: Send) -> None:
        self.guard = None
        # what has begun to be answered cannot be refused
        self.is_refused = not self.answer.status and await guard(send)

    async def _receive_next(self, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "http.request":
            self.request.feed(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                self._is_read = True
                if self._recording:
                    self.watch.start(receive, self.on_client_left)
        elif message["type"] == "http.disconnect":
            self.on_client_left()
        return message

    def on_client_left(self) -> None:
        """End the call: complete if all that it needs has come, else given up by its client."""
        if self._recording:
            is_complete = not self.answer.is_undecided and self.answer.is_complete
            self._finish(None if is_complete else DISCONNECTED)

    # -- from the app to the client

    async def send(self, send: Send, message: Message) -> None:
        """Pass the app's message to the server's ``send``, then record it."""
        if self.is_refused:
            return
        kind = message["type"]
        # taken before it is handed on: whatever stands outside may write into the message, which compressors do
        data, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if kind == "http.response.start":
            self.answer.start(message)
            message = self._with_id(message)
        try:
            await send(message)
        except OSError:
            # newer ASGI servers raise OSError from send() after a disconnect
            self.on_client_left()
            raise
        if kind == "http.response.body":
            self.observe_response(data, more=more)
        elif kind == "http.response.pathsend":
            self.observe_response(b"", more=False)

    def _with_id(self, message: Message) -> Message:
        # an upstream that runs this middleware too has put its own id there
        headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != ID_HEADER]
        return {**message, "headers": [*headers, (ID_HEADER, response_id(self._request_id).encode())]}

    def observe_response(self, data: bytes, *, more: bool) -> None:
        """Record a piece of the answer that has left, and the end of the answer with the last one."""
        if not self._recording:
            return
        if data:
            if self.first_byte_at is None:
                self.first_byte_at = datetime.now(UTC)
            self.answer.feed(data)
        if not more:
            is_truncated = not self.answer.is_undecided and self.answer.is_truncated
            self._finish(TRUNCATED if is_truncated else None)


def _discard(failure: Failure | None) -> None:
    """Ignore an ending that comes after the first."""

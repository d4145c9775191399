"""One tracked request: what passes between client and app, and how it ended. Waits for nothing but those two."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from rwriter.asgi._capture.body import HEAD_BYTES, Body
from rwriter.asgi._capture.codings import Decoder, UndecodableBody, decode, decoders
from rwriter.asgi._error_types import INTERNAL_ERROR
from rwriter.asgi._fold.stream import StreamError, StreamFold
from rwriter.asgi._ids import response_id
from rwriter.asgi._json import to_text, with_error
from rwriter.asgi._types import ASGIApp, Message, Receive, Scope, Send, header
from rwriter.records import CLIENT_CLOSED_REQUEST

ID_HEADER: Final = b"x-rwriter-id"
ID_STATE: Final = "rwriter_request_id"

FOLD_BYTES: Final = 16 * 1024
"""Bytes of a stream folded at a time: some sixty events, a third of a millisecond."""

BAD_GATEWAY: Final = 502


class Owner(msgspec.Struct, frozen=True):
    """Whose call it is, and whether nothing of its bodies may be kept."""

    created_by: str
    blank: bool


class Failure(msgspec.Struct, frozen=True):
    """An ending that is not the app's answer. ``type`` is a word for programs, ``message`` one for people."""

    status: int
    type: str
    message: str

    def as_error(self) -> dict[str, Any]:
        """As the ``error`` member of a stored body."""
        return {"type": self.type, "message": self.message, "code": self.type}


DISCONNECTED: Final = Failure(
    CLIENT_CLOSED_REQUEST, "client_disconnected", "the client closed the connection before its answer was complete"
)
TRUNCATED: Final = Failure(BAD_GATEWAY, "stream_truncated", "the answer stopped before its end")
NO_ANSWER: Final = Failure(INTERNAL_ERROR, "app_error", "the application returned without an answer")
CANCELLED: Final = Failure(
    CLIENT_CLOSED_REQUEST, "cancelled", "the request was cancelled before its answer was complete"
)


def raised(exc: BaseException) -> Failure:
    """The app raised ``exc``, whose text may quote anything."""
    return Failure(INTERNAL_ERROR, "app_error", f"the application raised {type(exc).__name__}")


class Call:
    """Stands between server and app for one request. ``done`` is called once, when it is known how the call ended."""

    def __init__(
        self, scope: Scope, request_id: uuid.UUID, *, max_body_bytes: int, done: Callable[[Call], None]
    ) -> None:
        self.scope: Final = scope
        self.request_id: Final = request_id
        self.path: Final[str] = scope["path"]
        self.started_at: Final = datetime.now(UTC)
        self.completed_at = self.started_at
        self.request: Final = Body(max_body_bytes)
        self.answer: Final = Body(max_body_bytes)
        self.status = 0
        self.failure: Failure | None = None
        self.ended = False
        self.owner: Owner | None = None
        """Known before the end only where the row is there before it."""
        self._max_body_bytes: Final = max_body_bytes
        self._done: Final = done
        self._headers: list[tuple[bytes, bytes]] = []
        self._stream: _Stream | None = None
        self._ahead: deque[Message] = deque()
        self._asked = False
        self._watch: asyncio.Task[Message] | None = None

    async def run(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        """Run ``app``; what it raises is raised here, untouched."""

        async def receiving() -> Message:
            return await self._receive(receive)

        async def sending(message: Message) -> None:
            await self._send(message, send)

        try:
            await app(self.scope, receiving, sending)
        except asyncio.CancelledError:
            self.end(CANCELLED)
            raise
        except BaseException as exc:
            self.end(raised(exc))
            raise
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self.end(TRUNCATED if self.status else NO_ANSWER)

    def end(self, failure: Failure | None) -> None:
        """The call ended like this, unless it has ended already."""
        if self.ended:
            return
        self.ended = True
        self.completed_at = datetime.now(UTC)
        self.failure = failure
        self._done(self)

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies in memory, roughly."""
        return self.request.kept + self.answer.kept + (0 if self._stream is None else self._stream.held_bytes)

    # -- what the app hears

    async def read_ahead(self, receive: Receive) -> bool:
        """Take the request's body in before the app asks for it. Whether all of it has come, and within the limit."""
        while not self._asked and not self.request.overflowed:
            message = await self._hear_client(receive)
            self._ahead.append(message)
            if message["type"] == "http.disconnect":
                return False
        return not self.request.overflowed

    def detach(self) -> None:
        """The client has its answer: that it leaves means nothing any more."""
        if self._watch is not None:
            self._watch.cancel()

    async def _receive(self, receive: Receive) -> Message:
        if self._ahead:
            return self._ahead.popleft()
        return await (self._hang_up(receive) if self._asked else self._hear_client(receive))

    async def _hear_client(self, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "http.request":
            self.request.feed(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                self._asked = True
                # an app that waits for its upstream does not listen, and the server swallows what it sends later
                self._watch_client(receive)
        elif message["type"] == "http.disconnect":
            self._client_left()
        return message

    def _watch_client(self, receive: Receive) -> None:
        if not self.ended:
            self._watch = asyncio.ensure_future(receive())
            self._watch.add_done_callback(self._heard)

    async def _hang_up(self, receive: Receive) -> Message:
        # one at a time may ask the server: everybody waits for the same answer
        if self._watch is None:
            return await receive()
        return await asyncio.shield(self._watch)

    def _heard(self, watch: asyncio.Task[Message]) -> None:
        if not watch.cancelled() and watch.exception() is None and watch.result()["type"] == "http.disconnect":
            self._client_left()

    def _client_left(self) -> None:
        if self.ended:
            return
        complete = self._stream.ended if self._stream is not None else self._has_every_byte()
        self.end(None if complete else DISCONNECTED)

    # -- what the app says

    async def _send(self, message: Message, send: Send) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            message = self._begin_answer(message)
        try:
            await send(message)
        except OSError:
            # servers of newer make say so themselves when the client has gone
            self._client_left()
            raise
        if kind == "http.response.body":
            self._hear(bytes(message.get("body", b"")), more=message.get("more_body", False))
        elif kind == "http.response.pathsend":
            self._hear(b"", more=False)

    def _begin_answer(self, message: Message) -> Message:
        self.status = message["status"]
        self._headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        content_type = header(self._headers, b"content-type") or ""
        if content_type.partition(";")[0].strip().lower() == "text/event-stream":
            self._stream = _Stream(self.content_encoding, self._max_body_bytes)
        # an upstream may have put one there
        headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != ID_HEADER]
        return {**message, "headers": [*headers, (ID_HEADER, response_id(self.request_id).encode())]}

    def _hear(self, data: bytes, *, more: bool) -> None:
        if self.ended:
            return
        if data:
            (self.answer if self._stream is None else self._stream).feed(data)
        if not more:
            self.end(None if self._stream is None or self._stream.ended or not self._stream.known else TRUNCATED)

    def _has_every_byte(self) -> bool:
        length = header(self._headers, b"content-length")
        return self.status > 0 and length is not None and length.isdigit() and self.answer.size >= int(length)

    # -- what is stored of it

    @property
    def content_encoding(self) -> str | None:
        """How the answer's body is coded."""
        return header(self._headers, b"content-encoding")

    def request_text(self) -> str:
        """What is stored of the request's body."""
        return self.request.text(header(self.scope["headers"], b"content-encoding"))

    def result(self) -> Result:
        """What the call came to. Decodes bodies: a megabyte takes milliseconds."""
        if self._stream is None:
            text, error = self.answer.text(self.content_encoding), None
        else:
            text, error = self._stream.text()
        # what an upstream says of its own end tells more than that it ended
        failure = self.failure if error is None else Failure(error.status, error.type, error.message)
        if failure is not None:
            text = with_error(text, failure.as_error())
        return Result(self.request_text(), text, self.status if failure is None else failure.status)


class Result(msgspec.Struct, frozen=True):
    """The texts and the status of a row."""

    request_body: str
    response_body: str
    status: int


class _Stream:
    """A response of server-sent events, folded as it passes, some events at a time."""

    def __init__(self, content_encoding: str | None, max_bytes: int) -> None:
        self._size = 0
        self._max_bytes: Final = max_bytes
        self._content_encoding: Final = content_encoding
        self._fold: Final = StreamFold(max_bytes=max_bytes)
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        # the stream as it came, for as long as its events are not understood
        self._raw = Body(max_bytes)
        self._chain: list[Decoder] | None
        try:
            self._chain = decoders(content_encoding)
        except UndecodableBody:
            self._chain = None

    @property
    def known(self) -> bool:
        """Whether its events are understood; of others the text is kept."""
        self._catch_up()
        return self._understood

    @property
    def ended(self) -> bool:
        """Whether its own last word has come."""
        return self.known and self._fold.ended

    @property
    def held_bytes(self) -> int:
        """Bytes in memory, roughly."""
        return self._waiting_size + (min(self._size, self._max_bytes) if self._understood else self._raw.kept)

    def feed(self, data: bytes) -> None:
        """The next piece, as it passed."""
        self._waiting.append(data)
        self._waiting_size += len(data)
        # not each event by itself: the next one is waiting behind us
        if self._waiting_size >= FOLD_BYTES:
            self._catch_up()

    def text(self) -> tuple[str, StreamError | None]:
        """The folded answer and its error frame; the text as it came, where that was not understood."""
        if not self.known:
            return self._raw.text(self._content_encoding), None
        folded = self._fold.result()
        text = "" if folded.body is None else to_text(folded.body)
        if folded.truncated or len(text) > self._max_bytes:
            text = to_text({"rwriter": {"envelope": "truncated", "size": self._size, "head": text[:HEAD_BYTES]}})
        return text, folded.error

    @property
    def _understood(self) -> bool:
        return self._chain is not None and self._fold.known

    def _catch_up(self) -> None:
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_size = 0
        self._size += len(data)
        if not self._understood:
            self._raw.feed(data)
        try:
            for piece in decode(self._chain, data) if self._chain is not None else ():
                self._fold.feed(piece)
        except UndecodableBody:
            self._chain = None
        if self._understood:
            self._raw = Body(self._max_bytes)

"""The reader's routes under WSGI: each request runs on the writer's loop, and its answer is handed over in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Final

from rwriter.asgi._types import ASGIApp, Message, Scope
from rwriter.threaded import ThreadedWriter
from rwriter.wsgi._types import StartResponse


def answered(app: ASGIApp, writer: ThreadedWriter, scope: Scope, start_response: StartResponse) -> Iterable[bytes]:
    """Serve a request without a body through ``app``. Return its answer: whole, or a piece as soon as it is there."""
    answer = _Answer(app, scope)
    start, first = writer.run(answer.begin())
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    start_response(f"{start['status']} {HTTPStatus(start['status']).phrase}", headers)
    # a caller may read a whole answer when the writer is closed
    return _pieces(answer, writer, first) if first.get("more_body", False) else [first.get("body", b"")]


def _pieces(answer: _Answer, writer: ThreadedWriter, first: Message) -> Iterator[bytes]:
    message: Message | None = first
    try:
        while message is not None:
            yield message.get("body", b"")
            message = writer.run(answer.next()) if message.get("more_body", False) else None
    finally:
        writer.run(answer.stop())


class _Answer:
    """Messages of an ASGI app, one at a time: the app waits until the one before is taken."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self._app: Final = app
        self._scope: Final = scope
        self._messages: Final[asyncio.Queue[Message | None]] = asyncio.Queue(1)
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> tuple[Message, Message]:
        """Start the app. Return the head of its answer and the first piece of its body. Raises what the app raises."""
        self._task = asyncio.create_task(self._serve(), name="rwriter-wsgi-route")
        return await self.next(), await self.next()

    async def next(self) -> Message:
        """Return the next message. Raises what the app raised, ``RuntimeError`` if it has ended."""
        message = await self._messages.get()
        if message is not None:
            return message
        if self._task is not None:
            await self._task
        msg = "the app has ended before its answer"
        raise RuntimeError(msg)

    async def stop(self) -> None:
        """End the app, if it has not ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _serve(self) -> None:
        try:
            await self._app(self._scope, _Receive(), self._messages.put)
        except Exception:
            await self._messages.put(None)
            raise
        await self._messages.put(None)


class _Receive:
    """The server's ``receive`` of a request without a body, whose client never says that it has left."""

    def __init__(self) -> None:
        self._is_read = False

    async def __call__(self) -> Message:
        if self._is_read:
            await asyncio.Event().wait()
        self._is_read = True
        return {"type": "http.request", "body": b"", "more_body": False}

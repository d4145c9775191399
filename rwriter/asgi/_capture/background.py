"""Background responses: insert the row, answer ``202``, then run the app in a task that shutdown waits for."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import Any, Final

import msgspec

from rwriter._database_errors import describe
from rwriter.asgi._capture.call import CapturedCall
from rwriter.asgi._capture.endings import (
    BUSY,
    CANCELLED,
    SHUT_DOWN,
    STREAMED,
    TIMED_OUT,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Failure,
)
from rwriter.asgi._capture.exchange import ID_HEADER
from rwriter.asgi._capture.facts import Asked
from rwriter.asgi._capture.recorder import Dropped, Recorder
from rwriter.asgi._ids import response_id
from rwriter.asgi._json import UNREADABLE, dumps, loads_object
from rwriter.asgi._render.response import response_object
from rwriter.asgi._types import ASGIApp, Message, Receive, Scope, Send
from rwriter.records import NewRequest
from rwriter.store import RequestDetail
from rwriter.writer import RequestsWriter

STATE: Final = "rwriter_background"
"""Key in ``scope["state"]``: tells the app that no client listens and that the middleware keeps its answer."""
RETRY_AFTER: Final = 1
"""Seconds after which a client that was refused may ask again."""
STOP_GRACE: Final = 1.0
"""Seconds that cancelled apps get at shutdown to stop. Their rows are ended before."""

log = logging.getLogger("rwriter")


PATIENCE: Final = 1.0
IMPATIENCE: Final = 0.02
"""Seconds that a call waits, before its app runs, for who it is: as long as lookups end, and once one has not."""
TOO_LARGE: Final = Failure(
    413, "request_too_large", "the body of a background response must be at most max_body_bytes large"
)
TOO_SLOW: Final = Failure(408, "request_timeout", "the body of the background response did not come in time")
_SHOWN: Final = 64 * 1024
"""Bytes of the largest member of a request that its 202 shows again."""


class Background:
    """Begins background responses and ends those that take too long."""

    def __init__(
        self, writer: RequestsWriter, recorder: Recorder, *, begin_timeout: float, timeout: float, limit: int
    ) -> None:
        self._writer: Final = writer
        self._recorder: Final = recorder
        self._begin_timeout: Final = begin_timeout
        self._timeout: Final = timeout
        self._limit: Final = limit
        self._patience = PATIENCE
        self._running: Final[Counter[str]] = Counter()
        self._calls: Final[dict[asyncio.Task[None], CapturedCall]] = {}
        self._closed = False

    async def take(self, app: ASGIApp, call: CapturedCall, receive: Receive, send: Send) -> bool:
        """Begin a background response if ``call`` asks for one. Return False if ``app`` is to run as ever.

        Only the body of a call whose owner is known is read before the app runs. One who is not known, a body over the
        limit, or one that stops coming, is refused once the app itself has read it and it turns out to ask for the
        background.
        """
        refusal = await self._stranger(call) or await self._unread(call, receive)
        if refusal is not None:
            call.guard(partial(self._refuse, call, refusal))
            return False
        wanted = await self._recorder.threads.run(call.request_work, call.wants_background)
        if wanted:
            await self._begin(app, call, send)
        return wanted

    async def _unread(self, call: CapturedCall, receive: Receive) -> Failure | None:
        """Read the body of ``call``. Return why it could not be read whole, ``None`` if it was."""
        try:
            return None if await call.read_ahead(receive, self._begin_timeout) else TOO_LARGE
        except TimeoutError:
            return TOO_SLOW

    async def _begin(self, app: ASGIApp, call: CapturedCall, send: Send) -> None:
        """Insert the row of ``call``, answer 202 and leave ``app`` running. Without a row answer with the reason."""
        call.detach()
        try:
            text = await self._recorder.threads.run(call.request_work, call.request_text)
            asked = await self._recorder.threads.run(call.request_work, call.asked)
            begun = await self._insert_row(call, asked, text)
            parts = await self._recorder.threads.run(len(text), _parts_of, text)
        except BaseException:
            # the row may have been inserted all the same, and must not stay in `processing`
            call.finish(CANCELLED)
            raise
        if isinstance(begun, Failure):
            call.finish(begun)
            await _say(send, call, begun)
            return
        body, shown = parts
        self._start(app, call, body, begun.created_by)
        row = RequestDetail.processing(msgspec.structs.replace(begun, body=shown), started_at=call.started_at)
        await _answer(send, call, 202, response_object(row))

    async def _stranger(self, call: CapturedCall) -> Failure | None:
        """Return why ``call`` may not run in the background; ``None`` if its owner is known."""
        try:
            is_known = await self._recorder.is_known(call.scope, self._patience)
        except Exception:  # noqa: BLE001 -- the service's own code; the recorder asks it again, and logs what it raises
            self._patience = IMPATIENCE
            return UNAVAILABLE
        self._patience = PATIENCE
        return None if is_known else UNAUTHENTICATED

    async def _refuse(self, call: CapturedCall, refusal: Failure, send: Send) -> bool:
        """Answer with ``refusal`` if ``call`` asks for the background after all."""
        if not await self._recorder.threads.run(call.request_work, call.wants_background):
            return False
        call.detach()
        call.finish(refusal)
        await _say(send, call, refusal)
        return True

    async def drain(self, deadline: float) -> None:
        """Begin no more, wait for the running ones until ``deadline`` (of the loop's clock), and stop the rest."""
        self._closed = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        for task, call in list(self._calls.items()):
            self._stop(task, call, SHUT_DOWN)
        if self._calls:
            await asyncio.wait(self._calls, timeout=STOP_GRACE)

    # -- inside

    async def _insert_row(self, call: CapturedCall, asked: Asked, text: str) -> NewRequest | Failure:
        """Insert the row in ``processing``. Return the request as the client knows it, or why there is no row."""
        if self._closed:
            return BUSY
        if asked.stream:
            return STREAMED
        try:
            async with asyncio.timeout(self._begin_timeout):
                if self._recorder.privacy.asks:
                    await self._recorder.tell_store(call)
                owner = await self._recorder.owner(call.scope)
                if self._running[owner.created_by] >= self._limit:
                    return BUSY
                call.owner = owner
                request = await self._recorder.threads.run(len(text), call.new_request, text, owner)
                stored = await self._recorder.privacy.redacted_request(
                    request, call.started_at, store_no_bodies=owner.store_no_bodies
                )
                await self._writer.store.create_realtime(stored)
        except Dropped:
            return UNAUTHENTICATED
        except Exception as exc:  # noqa: BLE001 -- whatever it is, there may be no row, and then there is no 202
            log.error("cannot begin background response %s: %s", call.name, describe(exc))
            return UNAVAILABLE
        return request

    def _start(self, app: ASGIApp, call: CapturedCall, body: bytes, owner: str) -> None:
        self._running[owner] += 1
        task = asyncio.create_task(self._run(app, call, body), name=f"rwriter-background-{call.request_id}")
        self._calls[task] = call
        timer = asyncio.get_running_loop().call_later(self._timeout, self._stop, task, call, TIMED_OUT)

        def on_done(task: asyncio.Task[None]) -> None:
            timer.cancel()
            del self._calls[task]
            self._running[owner] -= 1
            if not self._running[owner]:
                del self._running[owner]
            # a task that is cancelled before its first step does not get to end the call itself
            call.finish(CANCELLED)

        task.add_done_callback(on_done)
        self._writer.in_flight.add_response(call.request_id, task)

    async def _run(self, app: ASGIApp, call: CapturedCall, body: bytes) -> None:
        scope, receive = _as_foreground(call.scope, body)

        async def foreground(_scope: Scope, _receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

        try:
            await call.run(foreground, receive, _discard)
        except Exception as exc:  # noqa: BLE001 -- there is no server to raise it to; the row says it
            log.error("background response %s: the application raised %s", call.name, describe(exc))

    def _stop(self, task: asyncio.Task[None], call: CapturedCall, failure: Failure) -> None:
        # the row is ended first, because an app may take its time to stop, or not stop at all
        call.finish(failure)
        task.cancel()


def _parts_of(text: str) -> tuple[bytes, str]:
    """Return a request without ``background``, which an upstream might act on, and what its 202 shows of it."""
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        # what a strict parser refuses was read from both ends
        fields = {name: msgspec.Raw(dumps(value)) for name, value in loads_object(text.removeprefix("\ufeff")).items()}
    shown = {name: raw for name, raw in fields.items() if name != "input" and len(bytes(raw)) <= _SHOWN}
    fields.pop("background", None)
    return msgspec.json.encode(fields), msgspec.json.encode(shown).decode()


def _as_foreground(scope: Scope, body: bytes) -> tuple[Scope, Receive]:
    """Return scope and ``receive`` of the same request with another body."""
    changed = (b"content-length", b"content-encoding", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in changed]
    headers.append((b"content-length", str(len(body)).encode()))
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        # the client of a background response never leaves
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    scope["state"][STATE] = True
    return {**scope, "headers": headers, "extensions": {}}, receive


async def _discard(message: Message) -> None:
    """Drop what the app sends: the client has had its 202, and the call keeps a copy."""


async def _say(send: Send, call: CapturedCall, failure: Failure) -> None:
    await _answer(send, call, failure.status, {"error": failure.to_error() | {"param": None}})


async def _answer(send: Send, call: CapturedCall, status: int, content: dict[str, Any]) -> None:
    body = dumps(content)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (ID_HEADER, response_id(call.request_id).encode()),
    ]
    if status == UNAVAILABLE.status:
        headers.append((b"retry-after", str(RETRY_AFTER).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

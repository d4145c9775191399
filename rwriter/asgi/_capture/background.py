"""Background responses: the row first, then ``202``, then the app in a task that shutdown waits for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec

from rwriter._database_errors import describe
from rwriter.asgi._attribution import api_key_of
from rwriter.asgi._capture.call import CANCELLED, ID_HEADER, Call, Failure
from rwriter.asgi._capture.recorder import Dropped, Recorder, model_of
from rwriter.asgi._ids import response_id
from rwriter.asgi._json import dumps, peek
from rwriter.asgi._render.response import response_object
from rwriter.asgi._types import ASGIApp, Message, Receive, Scope, Send
from rwriter.records import CompletedRequest, NewRequest
from rwriter.store import detail_of
from rwriter.writer import RequestsWriter

STATE: Final = "rwriter_background"
"""In ``scope["state"]``: tells the app that nobody listens, and that the response is the middleware's to keep."""
RETRY_AFTER: Final = 1
"""Seconds after which a client that was refused may ask again."""
STOP_GRACE: Final = 1.0
"""Seconds an app has to end once it is cancelled at shutdown. Its row has its end by then."""

TIMED_OUT: Final = Failure(504, "timeout", "the response took longer than background_timeout")
SHUT_DOWN: Final = Failure(503, "server_shutdown", "the service stopped before the response was complete")
UNAVAILABLE: Final = Failure(503, "server_error", "the response cannot be begun now: try again")
BUSY: Final = Failure(503, "server_error", "too many background responses are running: try again")
UNAUTHENTICATED: Final = Failure(401, "authentication_error", "a background response needs an API key known here")
STREAMED: Final = Failure(
    400, "invalid_request_error", "background with stream is not supported: poll GET /responses/{id} instead"
)

log = logging.getLogger("rwriter")


class _Asked(msgspec.Struct):
    background: Any = None
    stream: Any = None


def wants_background(text: str) -> bool:
    """Whether the body of a request asks for a background response."""
    return '"background"' in text and peek(text, _Asked).background is True


class Background:
    """Begins background responses and watches over those that run."""

    def __init__(
        self, writer: RequestsWriter, recorder: Recorder, *, begin_timeout: float, timeout: float, limit: int
    ) -> None:
        self._writer: Final = writer
        self._recorder: Final = recorder
        self._begin_timeout: Final = begin_timeout
        self._timeout: Final = timeout
        self._limit: Final = limit
        self._calls: Final[dict[asyncio.Task[None], Call]] = {}
        self._closed = False

    async def begin(self, app: ASGIApp, call: Call, text: str, send: Send) -> None:
        """Write the row of ``call``, asked with ``text``, answer 202, and leave ``app`` running; or answer why not."""
        call.detach()
        try:
            refusal = await self._begin_row(call, text)
        except BaseException:
            # the row may be there all the same
            call.end(CANCELLED)
            raise
        if refusal is not None:
            call.end(refusal)
            await _answer(send, call, refusal.status, {"error": refusal.as_error() | {"param": None}})
            return
        self._start(app, call, text)
        begun = msgspec.structs.replace(
            detail_of(_provisional(call, text, "-")),
            status="processing",
            completed_at=None,
            duration_ms=None,
            response_status=None,
            response_body=None,
        )
        await _answer(send, call, 202, response_object(begun))

    async def drain(self, deadline: float) -> None:
        """Begin no more, wait until ``deadline`` (of the loop's clock) for what runs, and stop the rest."""
        self._closed = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        for task, call in list(self._calls.items()):
            self._stop(task, call, SHUT_DOWN)
        if self._calls:
            await asyncio.wait(self._calls, timeout=STOP_GRACE)

    # -- inside

    async def _begin_row(self, call: Call, text: str) -> Failure | None:
        if self._closed or len(self._calls) >= self._limit:
            return BUSY
        if peek(text, _Asked).stream:
            return STREAMED
        try:
            async with asyncio.timeout(self._begin_timeout):
                call.owner = await self._recorder.owner(call.scope)
                record = _provisional(call, text, call.owner.created_by)
                await self._writer.store.create_realtime(
                    _new_request(await self._recorder.redacted(record, blank=call.owner.blank))
                )
        except Dropped:
            return UNAUTHENTICATED
        except Exception as exc:  # noqa: BLE001 -- whatever it is, there may be no row, and then there is no 202
            log.error("cannot begin background response %s: %s", call.request_id, describe(exc))
            return UNAVAILABLE
        return None

    def _start(self, app: ASGIApp, call: Call, text: str) -> None:
        task = asyncio.create_task(self._run(app, call, text), name=f"rwriter-background-{call.request_id}")
        self._calls[task] = call
        timer = asyncio.get_running_loop().call_later(self._timeout, self._stop, task, call, TIMED_OUT)

        def ended(task: asyncio.Task[None]) -> None:
            timer.cancel()
            del self._calls[task]
            # cancelled before its first step it never came to an end of its own
            call.end(CANCELLED)

        task.add_done_callback(ended)
        self._writer.in_flight.add_response(call.request_id, task)

    async def _run(self, app: ASGIApp, call: Call, text: str) -> None:
        scope, receive = _as_foreground(call.scope, text)

        async def alone(_scope: Scope, _receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

        try:
            await call.run(alone, receive, _nowhere)
        except Exception as exc:  # noqa: BLE001 -- there is no server to tell; the row says it
            log.error("background response %s: the application raised %s", call.request_id, describe(exc))

    def _stop(self, task: asyncio.Task[None], call: Call, failure: Failure) -> None:
        # first the row's end: an app may take its time to stop, or not stop at all
        call.end(failure)
        task.cancel()


def _provisional(call: Call, text: str, created_by: str) -> CompletedRequest:
    """The record as far as it is known, so that one ``redact`` hook serves both ends of it."""
    return CompletedRequest(
        request_id=call.request_id,
        status_code=202,
        request_body=text,
        response_body="",
        model=model_of(text),
        endpoint=call.path,
        api_key=api_key_of(call.scope) or "",
        created_by=created_by,
        started_at=call.started_at,
        completed_at=call.started_at,
    )


def _new_request(record: CompletedRequest) -> NewRequest:
    return NewRequest(
        request_id=record.request_id,
        body=record.request_body,
        model=record.model,
        endpoint="",
        method="POST",
        path=record.endpoint,
        api_key=record.api_key,
        created_by=record.created_by,
    )


def _as_foreground(scope: Scope, text: str) -> tuple[Scope, Receive]:
    """What the app gets: the same request without ``background``, which an upstream might take for its own business."""
    fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    del fields["background"]
    body = msgspec.json.encode(fields)
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


async def _nowhere(message: Message) -> None:
    """The client has its answer."""


async def _answer(send: Send, call: Call, status: int, content: dict[str, Any]) -> None:
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

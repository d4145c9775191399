"""A body that is read ahead of the app is waited for with patience, charged as it is held, and lost to nobody."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest

from rwriter.asgi import CaptureMiddleware
from rwriter.asgi._capture.budget import STEP, Budget, Share
from rwriter.asgi._capture.exchange import MESSAGE_BYTES
from rwriter.asgi._capture.exchange import Exchange as Passing
from rwriter.asgi._types import Message, Receive, Scope, Send
from rwriter.records import new_request_id
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import Exchange, read, say

PATIENCE = 0.05
ASKED = [b'{"model":"m","background":', b'true,"input":"hello"}']


class Slow(Exchange):
    """A client that sends the rest of its body once ``go_on`` is set."""

    def __init__(self, app: CaptureMiddleware, body: list[bytes], **options: Any) -> None:
        super().__init__(app, body, **options)
        self.go_on = asyncio.Event()

    async def _receive(self) -> Message:
        if len(self._asks) == 1:
            await self.go_on.wait()
        return await super()._receive()


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    await say(send, b"{}", status=403)


class Echo:
    """An app that says what it was sent. ``asked`` is set when it is called: the middleware has waited long enough."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await say(send, json.dumps({"heard": (await read(receive)).decode()}).encode())


async def test_an_app_that_refuses_unread_answers_a_known_client_that_withholds_its_body(
    capture: Capture, rows: Rows
) -> None:
    middleware = capture(refusing, begin_timeout=PATIENCE)
    calls = [Slow(middleware, [b'{"input":"' + b"a" * 100_000, b'"}']).start() for _ in range(20)]
    for call in calls:
        assert (await call.end()).status == 403
    stored = await rows.all(middleware)
    assert [row.response_status for row in stored] == [403] * 20
    assert middleware._recorder._budget.used == 0


async def late(app: Echo, middleware: CaptureMiddleware, body: list[bytes]) -> Slow:
    """Send the rest of ``body`` once the app has been asked without it."""
    call = Slow(middleware, body)
    call.start()
    await asyncio.wait_for(app.asked.wait(), 20)
    call.go_on.set()
    await call.end()
    return call


async def test_a_body_that_comes_late_reaches_the_app_whole(capture: Capture, rows: Rows) -> None:
    app = Echo()
    middleware = capture(app, begin_timeout=PATIENCE)
    call = await late(app, middleware, [b'{"model":"m",', b'"input":"hello"}'])
    assert call.json == {"heard": '{"model":"m","input":"hello"}'}
    row = await rows.one(middleware)
    assert (row.model, row.body) == ("m", '{"model":"m","input":"hello"}')


async def test_a_background_request_that_came_too_late_is_refused_and_has_its_row(capture: Capture, rows: Rows) -> None:
    app = Echo()
    middleware = capture(app, begin_timeout=PATIENCE)
    call = await late(app, middleware, ASKED)
    assert (call.status, call.json["error"]["type"]) == (408, "request_timeout")
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 408)


async def test_what_is_read_ahead_is_charged_twice_until_the_app_has_it() -> None:
    size = 64 * STEP
    budget = Budget(4 * size)
    passing = Passing(new_request_id(), max_body_bytes=4 * size, share=Share(budget, 0), finish=lambda _failure: None)
    messages = [{"type": "http.request", "body": b"a" * size, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError(message)

    assert await passing.read_ahead(receive, PATIENCE)
    assert 2 * size <= budget.used <= 2 * size + 2 * STEP
    assert len((await passing.receive(receive, send))["body"]) == size
    assert size <= budget.used <= size + 2 * STEP
    passing.watch.stop()


async def test_a_body_that_finds_no_room_a_second_time_is_not_read_on() -> None:
    budget = Budget(12 * STEP)
    share = Share(budget, 0)
    passing = Passing(new_request_id(), max_body_bytes=1 << 20, share=share, finish=lambda _failure: None)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"a" * 8 * STEP, "more_body": True}

    assert not await passing.read_ahead(receive, PATIENCE)
    assert passing.request.size == 8 * STEP

    # what found no room has nothing to give back
    used = budget.used
    passing.forget_what_was_read()
    assert budget.used == used


@pytest.mark.parametrize("size", [1, 100])
async def test_a_body_in_tiny_pieces_is_charged_the_messages_that_hold_them(size: int) -> None:
    budget = Budget(1 << 20)
    passing = Passing(new_request_id(), max_body_bytes=1 << 30, share=Share(budget, 0), finish=lambda _failure: None)
    sent = 0

    async def receive() -> Message:
        nonlocal sent
        sent += 1
        return {"type": "http.request", "body": bytes(bytearray(b"a" * size)), "more_body": True}

    tracemalloc.start()
    try:
        assert not await passing.read_ahead(receive, PATIENCE)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent <= (1 << 20) // MESSAGE_BYTES + 1
    assert held <= 2 * (1 << 20)

"""The ways a call ends other than well."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest

from rwriter import new_request_id
from rwriter.asgi._capture.budget import Budget, Share
from rwriter.asgi._capture.call import CapturedCall
from rwriter.asgi._capture.stream import StreamedBody
from rwriter.asgi._types import Message, Receive, Scope, Send
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import DONE, SSE, Exchange, begin, chunk, part, read, say
from tests.support.driving import eventually

PLAIN: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]


def error_of(body: str | None) -> dict[str, Any]:
    assert body is not None
    error: dict[str, Any] = json.loads(body)["error"]
    return error


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_client_gone_before_the_answer_is_a_499_with_what_it_asked(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await asyncio.sleep(0)  # its upstream; it does not listen meanwhile
        client_left.set()
        await asyncio.wait_for(upstream.wait(), 20)
        await say(send, b'{"late":true}')

    client_left, upstream = asyncio.Event(), asyncio.Event()
    middleware = capture(app)
    exchange = Exchange(middleware, b'{"model":"m","input":"kept"}').start()
    await client_left.wait()
    exchange.leave()
    await eventually(lambda: middleware.stats.running == 0)
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 499)
    assert row.body == '{"model":"m","input":"kept"}'
    assert error_of(row.response_body)["type"] == "client_disconnected"
    upstream.set()
    await exchange.end()
    assert (await rows.one(middleware)).response_status == 499, "nobody got the late answer"


async def test_a_client_gone_before_it_has_asked_everything_is_a_499_with_its_part(
    capture: Capture, rows: Rows
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    for path in ("/v1/embeddings", "/v1/responses"):  # read by the app, and ahead of it
        middleware = capture(app)
        exchange = Exchange(middleware, path=path)
        exchange._asks[:] = [{"type": "http.request", "body": b'{"model":"m","inp', "more_body": True}]
        exchange.leave()
        await exchange.run()
        row = (await rows.all(middleware))[-1]
        assert (row.path, row.response_status, row.body) == (path, 499, '{"model":"m","inp')


async def test_a_client_gone_in_the_middle_of_a_stream_is_a_499_with_the_part(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await begin(send, headers=SSE)
        await part(send, chunk("Hel"))
        await part(send, chunk("lo"))
        message = await receive()
        assert message["type"] == "http.disconnect"
        await part(send, chunk(" never heard"))

    middleware = capture(app)
    exchange = Exchange(middleware).start()
    await exchange.until(3)
    exchange.leave()
    await exchange.end()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 499)
    stored = json.loads(row.response_body or "")
    assert stored["choices"][0]["message"]["content"] == "Hello"
    assert stored["error"]["type"] == "client_disconnected"


async def test_a_client_gone_in_the_middle_of_a_plain_answer_is_a_499_with_the_part(
    capture: Capture, rows: Rows
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await begin(send, headers=[*PLAIN, (b"content-length", b"100")])
        await part(send, b'{"half":')
        await receive()

    middleware = capture(app)
    exchange = Exchange(middleware).start()
    await exchange.until(2)
    exchange.leave()
    await exchange.end()
    row = await rows.one(middleware)
    assert row.response_status == 499
    assert json.loads(row.response_body or "")["partial"] == '{"half":'


@pytest.mark.parametrize(
    ("headers", "parts"),
    [(SSE, [chunk("Hi"), DONE]), ([*PLAIN, (b"content-length", b"2")], [b"{}"])],
    ids=["stream", "plain"],
)
async def test_a_client_that_leaves_with_the_last_byte_has_had_its_answer(
    capture: Capture, rows: Rows, headers: list[tuple[bytes, bytes]], parts: list[bytes]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await begin(send, headers=headers)
        for data in parts:
            await part(send, data)
        await receive()  # gone before the empty last message
        await send({"type": "http.response.body", "body": b""})

    middleware = capture(app)
    exchange = Exchange(middleware).start()
    await exchange.until(1 + len(parts))
    exchange.leave()
    await exchange.end()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("completed", 200)


async def test_a_server_that_raises_when_the_client_has_gone_is_believed(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, headers=SSE)
        await part(send, chunk("Hel"))
        await part(send, chunk("lo"))

    async def send(message: Message) -> None:
        heard.append(message)
        if len(heard) == 3:
            raise OSError

    heard: list[Message] = []
    middleware = capture(app)
    exchange = Exchange(middleware)
    with pytest.raises(OSError):  # noqa: PT011 -- the server's own
        await middleware(exchange.scope, exchange._receive, send)
    row = await rows.one(middleware)
    assert row.response_status == 499
    assert json.loads(row.response_body or "")["choices"][0]["message"]["content"] == "Hel"


class AppError(Exception):
    """The app's own."""


@pytest.mark.parametrize("begun", [False, True])
async def test_an_app_that_raises_is_a_500_and_its_exception_goes_on_untouched(
    capture: Capture, rows: Rows, begun: bool
) -> None:
    exception = AppError("secret words")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        if begun:
            await begin(send, headers=SSE)
            await part(send, chunk("Hel"))
        raise exception

    middleware = capture(app)
    with pytest.raises(AppError) as raised:
        await Exchange(middleware).run()
    assert raised.value is exception
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 500)
    assert error_of(row.response_body) == {
        "type": "app_error", "message": "the application raised AppError", "code": "app_error",
    }  # fmt: skip
    assert ("Hel" in (row.response_body or "")) is begun


async def test_an_app_that_returns_without_an_answer_is_a_500(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.response_status, error_of(row.response_body)["type"]) == (500, "app_error")


async def test_an_app_cancelled_by_its_server_leaves_a_row(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await for_ever()

    middleware = capture(app)
    exchange = Exchange(middleware).start()
    await asyncio.sleep(0)
    assert exchange.task is not None
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    row = await rows.one(middleware)
    assert (row.response_status, error_of(row.response_body)["type"]) == (499, "cancelled")


async def test_a_server_that_breaks_while_the_request_is_read_is_heard_and_leaves_a_row(
    capture: Capture, rows: Rows
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)

    async def receive() -> Message:
        raise ConnectionResetError

    middleware = capture(app)
    for path in ("/v1/embeddings", "/v1/responses"):  # read by the app, and ahead of it
        exchange = Exchange(middleware, path=path)
        with pytest.raises(ConnectionResetError):
            await middleware(exchange.scope, receive, exchange._send)
    assert [(row.path, row.response_status) for row in await rows.all(middleware)] == [
        ("/v1/embeddings", 500), ("/v1/responses", 499),
    ]  # fmt: skip


async def test_a_file_that_the_server_sends_by_itself_is_an_answer_without_a_body(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send)
        await send({"type": "http.response.pathsend", "path": "/tmp/answer.json"})  # noqa: S108

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_body) == ("completed", "")


@pytest.mark.parametrize("last", [True, False], ids=["closed", "abandoned"])
async def test_a_stream_without_its_end_marker_is_a_502_with_the_part(capture: Capture, rows: Rows, last: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, headers=SSE)
        await part(send, chunk("Hel") + chunk("lo"))
        if last:
            await send({"type": "http.response.body", "body": b""})

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 502)
    assert error_of(row.response_body)["type"] == "stream_truncated"
    assert json.loads(row.response_body or "")["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "no", "code": 503}, 503),
        ({"message": "no", "type": "rate_limit_error"}, 429),
        ({"message": "no"}, 500),
    ],
)
async def test_an_error_frame_makes_a_failed_row_of_a_200(
    capture: Capture, rows: Rows, error: dict[str, Any], status: int
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        frame = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
        await say(send, chunk("Hel"), frame, DONE, headers=SSE)

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", status)
    stored = json.loads(row.response_body or "")
    assert stored["error"].items() >= error.items()
    assert stored["choices"][0]["message"]["content"] == "Hel"


async def test_an_error_frame_says_more_of_the_end_than_the_exception_after_it(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, headers=SSE)
        await part(send, b'data: {"error":{"message":"no","code":503}}\n\n')
        raise AppError

    middleware = capture(app)
    with pytest.raises(AppError):
        await Exchange(middleware).run()
    assert (await rows.one(middleware)).response_status == 503


async def test_a_call_that_has_ended_is_freed_without_the_garbage_collector() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await say(send, b"{}")

    ended: list[weakref.ref[CapturedCall]] = []
    gc.collect()
    gc.disable()
    try:
        exchange = Exchange(app)
        call = CapturedCall(
            exchange.scope,
            new_request_id(),
            max_body_bytes=1_000,
            share=Share(Budget(1_000_000), 0),
            on_end=lambda call: ended.append(weakref.ref(call)),
        )
        await call.run(app, exchange._receive, exchange._send)
        del call
        await eventually(lambda: [reference() for reference in ended] == [None])
    finally:
        gc.enable()


def test_of_a_stream_that_is_understood_the_result_is_held_and_not_the_stream() -> None:
    stream = StreamedBody(None, 1_000_000)
    for _ in range(5_000):
        stream.feed(chunk(""))
    assert stream.known
    assert stream._raw.kept == 0
    strange = StreamedBody(None, 1_000_000)
    for _ in range(5_000):
        strange.feed(b'data: {"tick":1}\n\n')
    assert not strange.known
    assert strange._raw.kept == strange.held_bytes == 5_000 * 18


async def test_a_whole_stream_is_stored_as_the_object_it_says_piece_by_piece(capture: Capture, rows: Rows) -> None:
    whole = chunk("Hel") + b": keep-alive\n\n" + chunk("lo", finish_reason="stop") + DONE

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, *(whole[at : at + 7] for at in range(0, len(whole), 7)), headers=SSE)

    middleware = capture(app)
    exchange = await Exchange(middleware, path="/v1/chat/completions").run()
    assert exchange.body == whole
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("completed", 200)
    stored = json.loads(row.response_body or "")
    assert stored["object"] == "chat.completion"
    assert stored["choices"][0]["message"]["content"] == "Hello"


async def test_a_stream_of_events_nobody_knows_is_stored_as_it_came(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b'data: {"tick":1}\n', b'\ndata: {"tick":2}\n\n', headers=SSE)

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_body) == ("completed", 'data: {"tick":1}\n\ndata: {"tick":2}\n\n')

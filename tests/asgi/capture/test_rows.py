"""A call that passes through becomes a row, and passes unchanged."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from rwriter import RequestStore, RequestsWriter
from rwriter._values.keys import digest
from rwriter.asgi import CaptureMiddleware
from rwriter.asgi._ids import response_id
from rwriter.asgi._types import Message, Receive, Scope, Send
from rwriter.schema import request_templates, requests
from rwriter.testing import TestDbEngines
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import KEY, OWNER, SSE, Exchange, owners, read, say
from tests.support.driving import eventually
from tests.support.folding import event, named

ANSWER = b'{"id":"resp_up","object":"response","model":"m-2026","output":[]}'


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    await say(send, ANSWER, headers=[(b"content-type", b"application/json")])


async def test_a_call_becomes_a_row(capture: Capture, rows: Rows, rwriter_engines: TestDbEngines) -> None:
    middleware = capture(answering)
    before = datetime.now(UTC)
    asked = b'{"model": "gpt-test",  "input": "h\xc3\xa9llo"}'
    exchange = await Exchange(middleware, [asked[:9], asked[9:30], asked[30:]]).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status, row.created_by) == ("completed", 200, OWNER)
    assert (row.model, row.path) == ("gpt-test", "/v1/responses")
    assert (row.body, row.response_body) == (asked.decode(), ANSWER.decode())
    assert row.completed_at is not None
    assert before <= row.created_at <= row.completed_at <= datetime.now(UTC)
    assert exchange.headers[b"x-rwriter-id"] == f"resp_{row.id}".encode()
    assert exchange.scope["state"]["rwriter_request_id"] == row.id
    assert row.id.version == 7
    async with rwriter_engines.write.connect() as connection:
        found = (
            await connection.execute(
                select(requests.c.custom_id, request_templates.c.api_key).join_from(requests, request_templates)
            )
        ).one()
    assert tuple(found) == ("resp_up", digest(KEY))


CHAT = {"object": "chat.completion.chunk", "model": "m"}
END = {"index": 0, "delta": {}, "finish_reason": "stop"}
RENAMED = {
    "a response": [
        named({"type": "response.created", "response": {"id": "one", "output": []}}),
        named({"type": "response.in_progress", "response": {"id": "between", "output": []}}),
        named({"type": "response.completed", "response": {"id": "two", "status": "completed", "output": []}}),
    ],
    "a chat": [event({"id": "two", "choices": [], **CHAT}), event({"id": "one", "choices": [END], **CHAT})],
    "a message": [
        named({"type": "message_start", "message": {"id": "two", "content": []}}),
        named({"type": "message_start", "message": {"id": "one", "content": []}}),
        named({"type": "message_stop"}),
    ],
}


@pytest.mark.parametrize("pieces", RENAMED.values(), ids=RENAMED)
async def test_the_first_id_of_an_answer_and_the_last_find_its_row(
    capture: Capture, rows: Rows, store: RequestStore, pieces: list[bytes]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await say(send, *pieces, headers=SSE)

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert row.status == "completed"
    for known in ("one", "two"):
        found = await store.find_request(known, OWNER)
        assert found is not None
        assert found.id == row.id
        assert await store.find_request(known, "bob") is None


async def test_an_id_that_no_row_can_have_and_the_middlewares_own_are_left_out(
    capture: Capture, rows: Rows, store: RequestStore
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        ours = response_id(scope["state"]["rwriter_request_id"])
        begun = named({"type": "response.created", "response": {"id": "up"}})
        end = named({"type": "response.completed", "response": {"id": ours, "output": []}})
        await say(send, begun, end, headers=SSE)

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    found = await store.find_request("up", OWNER)
    assert found is not None
    assert found.id == row.id


async def test_what_the_app_and_the_client_hear_is_what_they_would_without(capture: Capture) -> None:
    heard: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append([await receive() for _ in range(3)])
        await send({"type": "http.response.start", "status": 207, "headers": [(b"a", b"b")], "trailers": True})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await send({"type": "http.response.body", "body": b"2"})
        await send({"type": "http.response.trailers", "headers": [(b"c", b"d")]})

    plain = await Exchange(app, [b"x", b"y", b"z"]).run()
    captured = await Exchange(capture(app), [b"x", b"y", b"z"], path="/v1/embeddings").run()
    assert heard[0] == heard[1]
    start = captured.heard[0]
    assert start["headers"][:-1] == plain.heard[0]["headers"]
    assert {**start, "headers": []} == {**plain.heard[0], "headers": []}
    assert captured.heard[1:] == plain.heard[1:]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"method": "HEAD"},
        {"path": "/v1/responses/resp_1"},
        {"path": "/v1/models"},
        {"type": "websocket"},
    ],
    ids=str,
)
async def test_other_requests_pass_untouched(capture: Capture, changes: dict[str, str]) -> None:
    seen: list[tuple[Any, ...]] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)

    middleware = capture(app)
    exchange = Exchange(middleware)
    scope = {**exchange.scope, **changes}

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        """Nobody listens."""

    await middleware(scope, receive, send)
    ((heard_scope, heard_receive, heard_send),) = seen
    assert heard_scope is scope
    assert heard_receive is receive
    assert heard_send is send
    assert scope["state"] == {}
    assert middleware.stats.tracked == 0


@pytest.mark.parametrize(
    "path",
    ["/responses", "/v1/chat/completions", "/openai/v1/completions/", "/v1/embeddings", "/anthropic/v1/messages"],
)
async def test_model_endpoints_are_tracked_under_any_prefix(capture: Capture, rows: Rows, path: str) -> None:
    middleware = capture(answering)
    await Exchange(middleware, path=path).run()
    assert (await rows.one(middleware)).path == path.rstrip("/")


async def test_the_tracked_paths_can_be_chosen(capture: Capture, rows: Rows) -> None:
    middleware = capture(answering, paths=["/rerank"])
    for path in ("/v1/rerank", "/v1/responses"):
        await Exchange(middleware, path=path).run()
    assert (await rows.one(middleware)).path == "/v1/rerank"


async def test_ids_models_and_markers_are_never_taken_from_headers(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await say(send, ANSWER, headers=[(b"X-Rwriter-Id", b"resp_upstream")])

    middleware = capture(app)
    forged = str(uuid.UUID(int=1)).encode()
    names = (b"x-rwriter-id", b"x-request-id", b"x-model", b"x-rwriter-request-id", b"x-rwriter-background")
    exchange = await Exchange(middleware, headers=[(name, forged) for name in names]).run()
    row = await rows.one(middleware)
    assert row.id != uuid.UUID(int=1)
    assert row.model == "gpt-test"
    assert [value for name, value in exchange.heard[0]["headers"] if name.lower() == b"x-rwriter-id"] == [
        f"resp_{row.id}".encode()
    ]


@pytest.mark.parametrize(
    ("asked", "answered", "model"),
    [
        (b'{"model":"a"}', b'{"model":"b"}', "a"),
        (b"no json", b'{"model":"b"}', "b"),
        (b'{"model":7}', b'{"model":null}', "unknown"),
        (b'["model"]', b"", "unknown"),
        (b"[" * 100_000, b"[" * 100_000, "unknown"),
    ],
    ids=["asked", "answered", "no text", "no object", "deep"],
)
async def test_the_model_is_the_bodies_own(
    capture: Capture, rows: Rows, asked: bytes, answered: bytes, model: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await say(send, answered)

    middleware = capture(app)
    await Exchange(middleware, asked).run()
    row = await rows.one(middleware)
    assert (row.model, row.body, row.response_body) == (model, asked.decode(), answered.decode())


@pytest.mark.parametrize("answered", ["", "x" * 513, 7, None])
async def test_an_answer_without_a_usable_id_is_known_by_ours_alone(
    capture: Capture, rows: Rows, rwriter_engines: TestDbEngines, answered: object
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, json.dumps({"id": answered}).encode())

    middleware = capture(app)
    await Exchange(middleware).run()
    await rows.one(middleware)
    async with rwriter_engines.write.connect() as connection:
        assert (await connection.execute(select(requests.c.custom_id))).scalar_one() is None


async def test_an_app_may_answer_with_the_id_it_was_told(
    capture: Capture, rows: Rows, rwriter_engines: TestDbEngines
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, json.dumps({"id": f"resp_{scope['state']['rwriter_request_id']}"}).encode())

    middleware = capture(app)
    await Exchange(middleware).run()
    await rows.one(middleware)
    async with rwriter_engines.write.connect() as connection:
        assert (await connection.execute(select(requests.c.custom_id))).scalar_one() is None


async def test_an_answer_that_is_an_error_is_a_failed_row_with_its_own_words(capture: Capture, rows: Rows) -> None:
    words = b'{"error":{"type":"rate_limit_error","message":"slow down"}}'

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, words, status=429)

    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status, row.response_body) == ("failed", 429, words.decode())


async def test_the_record_is_sent_when_the_last_byte_is_out_whatever_the_app_still_does(
    capture: Capture, writer: RequestsWriter, store: RequestStore
) -> None:
    finish = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(scope, receive, send)
        await finish.wait()
        raise RuntimeError("a background task of the app's")

    middleware = capture(app)
    exchange = Exchange(middleware).start()
    await exchange.until(2)
    await eventually(lambda: middleware.stats.recorded == 1)
    finish.set()
    with pytest.raises(RuntimeError, match="background task"):
        await exchange.end()
    await writer.flush(timeout=20)
    (row,) = (await store.list_requests()).data
    assert (row.status, middleware.stats.recorded) == ("completed", 1)


async def test_many_calls_at_once_keep_their_own(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read(receive)
        for _ in range(body[-2] % 7):
            await asyncio.sleep(0)
        await say(send, body[:5], body[5:])

    middleware = capture(app)
    bodies = {json.dumps({"model": "m", "input": number}) for number in range(100)}
    await asyncio.gather(*(Exchange(middleware, body.encode()).run() for body in bodies))
    stored = await rows.all(middleware)
    assert {row.body for row in stored} == bodies
    assert all(row.body == row.response_body for row in stored)
    stats = middleware.stats
    assert (stats.tracked, stats.recorded, stats.running, stats.pending, stats.dropped) == (100, 100, 0, 0, {})


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"paths": "/responses"}, TypeError, "paths"),
        ({"attribute": "alice"}, TypeError, "attribute"),
        ({"max_body_bytes": 0}, ValueError, "max_body_bytes"),
        ({"attribution_ttl": -1}, ValueError, "ttl"),
        ({"background_timeout": 0}, ValueError, "background_timeout"),
        ({"drain_timeout": float("nan")}, ValueError, "drain_timeout"),
        ({"max_pending_bytes": -5}, ValueError, "max_pending_bytes"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict[str, Any], error: type[Exception], named: str) -> None:
    writer = object.__new__(RequestsWriter)
    with pytest.raises(error, match=named):
        CaptureMiddleware(answering, writer, **({"attribute": owners} | options))

"""Background responses: a row before the answer, and an end for every row."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from sqlalchemy import select, text

from rwriter import DbEngines, RequestStore, RequestsWriter
from rwriter.asgi import CaptureMiddleware, attribute_from_state
from rwriter.asgi._capture import background as background_module
from rwriter.asgi._capture.budget import CALL_BYTES, STEP
from rwriter.asgi._reader.lookup import Lookup
from rwriter.asgi._types import Receive, Scope, Send
from rwriter.schema import requests
from rwriter.testing import TestDbEngines
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import OWNER, SSE, Exchange, begin, chunk, owners, part, read, say
from tests.support.driving import eventually

ASKED = b'{"model":"gpt-test", "temperature": 1.10, "background": true,"input":"hello","metadata":{"a":"b"}}'
ANSWER = {"id": "resp_up", "object": "response", "status": "completed", "output": []}


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    await say(send, json.dumps(ANSWER).encode())


class Upstream:
    """An app that waits for its model until it is let go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.heard = b""
        self.scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.heard = scope, await read(receive)
        self.begun.set()
        await self.go_on.wait()
        await answering_now(send)


async def answering_now(send: Send) -> None:
    await say(send, json.dumps(ANSWER).encode())


def error_of(body: str | None) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body or "")["error"]
    return error


async def test_the_row_is_there_before_the_answer_and_is_finished_after_it(
    capture: Capture, rows: Rows, store: RequestStore
) -> None:
    upstream = Upstream()
    middleware = capture(upstream)
    exchange = await Exchange(middleware, ASKED).run()
    assert exchange.status == 202
    answer = exchange.json
    assert exchange.headers[b"x-rwriter-id"].decode() == answer["id"]
    assert (answer["object"], answer["status"], answer["background"]) == ("response", "in_progress", True)
    assert (answer["model"], answer["metadata"], answer["output"]) == ("gpt-test", {"a": "b"}, [])
    (begun,) = (await store.list_requests()).data
    assert (begun.status, answer["id"]) == ("processing", f"resp_{begun.id}")
    upstream.go_on.set()
    row = await rows.one(middleware)
    assert (row.id, row.status, row.response_status) == (begun.id, "completed", 200)
    assert (row.body, json.loads(row.response_body or "")) == (ASKED.decode(), ANSWER)
    assert row.created_at == begun.created_at
    found = await Lookup(store).find("resp_up", OWNER)
    assert found is not None
    assert found.id == row.id


async def test_the_app_gets_the_same_request_without_the_word_and_a_client_that_never_leaves(
    capture: Capture, rows: Rows
) -> None:
    upstream = Upstream()
    middleware = capture(upstream)
    coded = [(b"content-encoding", b"gzip"), (b"content-length", b"999"), (b"x-other", b"kept")]
    exchange = await Exchange(middleware, gzip.compress(ASKED), headers=coded).run()
    exchange.leave()
    await upstream.begun.wait()
    expected = ASKED.replace(b' "background": true,', b"")
    assert json.loads(upstream.heard) == json.loads(expected)
    assert b'"temperature":1.10' in upstream.heard, "numbers as they were written"
    headers = dict(upstream.scope["headers"])
    assert headers[b"content-length"] == str(len(upstream.heard)).encode()
    assert headers[b"x-other"] == b"kept"
    assert b"content-encoding" not in headers
    assert upstream.scope["state"]["rwriter_background"] is True
    upstream.go_on.set()
    assert (await rows.one(middleware)).status == "completed"


async def test_other_paths_and_switched_off_are_the_apps_own_business(capture: Capture, rows: Rows) -> None:
    for middleware, path in (
        (capture(answering), "/v1/messages"),
        (capture(answering, background=False), "/v1/responses"),
    ):
        exchange = await Exchange(middleware, ASKED, path=path).run()
        assert exchange.status == 200
        assert (await rows.all(middleware))[-1].status == "completed"


@pytest.mark.parametrize("front", [True, False], ids=["in the head", "in the tail"])
async def test_a_body_over_the_limit_is_refused_once_the_app_has_read_it(
    capture: Capture, rows: Rows, front: bool
) -> None:
    filler = b'"input":"' + b"x" * 200_000 + b'"'
    asked = b'{"model":"m","background":true,' + filler + b"}" if front else b"{" + filler + b',"background":true}'
    middleware = capture(answering, max_body_bytes=1_000)
    exchange = await Exchange(middleware, [asked[:900], asked[900:150_000], asked[150_000:]]).run()
    assert (exchange.status, exchange.json["error"]["type"]) == (413, "request_too_large")
    row = await rows.one(middleware)
    assert (row.status, row.response_status, row.model) == ("failed", 413, "m" if front else "unknown")


async def test_a_body_over_the_limit_that_asks_for_no_background_reaches_the_app_whole(capture: Capture) -> None:
    heard: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(await read(receive))
        await answering_now(send)

    asked = b'{"model":"m","input":"' + b"x" * 2_000 + b'"}'
    exchange = await Exchange(capture(app, max_body_bytes=1_000), [asked[:900], asked[900:1_500], asked[1_500:]]).run()
    assert (exchange.status, heard) == (200, [asked])


@pytest.mark.parametrize("key", [None, "sk-stranger"])
async def test_the_app_of_somebody_unknown_is_asked_before_a_byte_is_read(capture: Capture, key: str | None) -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b"", status=403)

    async def receive() -> dict[str, Any]:
        asked.append(1)
        raise AssertionError

    asked: list[int] = []
    exchange = Exchange(refusing, key=key)
    await capture(refusing)(exchange.scope, receive, exchange._send)
    assert (exchange.status, asked) == (403, [])


async def test_while_attribute_cannot_tell_the_background_is_unavailable(capture: Capture) -> None:
    def broken(api_key: str, scope: Scope) -> str:
        raise ConnectionError

    upstream = Upstream()
    exchange = await Exchange(capture(upstream, attribute=broken), ASKED).run()
    assert (exchange.status, upstream.begun.is_set()) == (503, False)
    foreground = await Exchange(capture(answering, attribute=broken)).run()
    assert foreground.status == 200


async def test_one_owner_cannot_take_the_places_of_another(capture: Capture, rows: Rows) -> None:
    upstream = Upstream()
    middleware = capture(upstream, background_limit=1)
    answers = [await Exchange(middleware, ASKED, key=key).run() for key in ("sk-bob", "sk-bob", "sk-alice")]
    assert [answer.status for answer in answers] == [202, 503, 202]
    upstream.go_on.set()
    assert len(await rows.all(middleware)) == 3


async def test_the_answer_to_a_large_request_shows_its_small_members(capture: Capture, rows: Rows) -> None:
    asked = {"model": "m", "background": True, "input": [{"a": 1}] * 20_000, "metadata": {"a": "b"}, "temperature": 0.5}
    middleware = capture(answering)
    exchange = await Exchange(middleware, json.dumps(asked).encode()).run()
    assert (exchange.status, exchange.json["metadata"], exchange.json["temperature"]) == (202, {"a": "b"}, 0.5)
    assert json.loads((await rows.one(middleware)).body) == asked


class AppError(Exception):
    """The app's own."""


async def test_an_app_that_raises_leaves_a_failed_row(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, headers=SSE)
        await part(send, chunk("Hel"))
        raise AppError

    middleware = capture(app)
    exchange = await Exchange(middleware, ASKED).run()
    assert exchange.status == 202
    row = await rows.one(middleware)
    assert (row.status, row.response_status, error_of(row.response_body)["type"]) == ("failed", 500, "app_error")
    assert "Hel" in (row.response_body or "")


async def test_an_app_that_takes_too_long_leaves_a_failed_row(capture: Capture, rows: Rows) -> None:
    middleware = capture(Upstream(), background_timeout=0.01)
    await Exchange(middleware, ASKED).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status, error_of(row.response_body)["type"]) == ("failed", 504, "timeout")


@pytest.mark.parametrize("started", [True, False])
async def test_a_cancelled_app_leaves_a_failed_row(
    capture: Capture, rows: Rows, writer: RequestsWriter, started: bool
) -> None:
    upstream = Upstream()
    middleware = capture(upstream)
    exchange = Exchange(middleware, ASKED)
    await exchange.run()
    if started:
        await upstream.begun.wait()
    assert writer.in_flight.cancel_response(exchange.scope["state"]["rwriter_request_id"])
    row = await rows.one(middleware)
    assert (row.status, row.response_status, error_of(row.response_body)["type"]) == ("failed", 499, "cancelled")
    assert not writer.in_flight.cancel_response(row.id)


async def test_shutdown_waits_for_what_runs(capture: Capture, rows: Rows) -> None:
    upstream = Upstream()
    middleware = capture(upstream)
    await Exchange(middleware, ASKED).run()
    closing = asyncio.create_task(middleware.aclose())
    await upstream.begun.wait()
    refused = await Exchange(middleware, ASKED).run()
    assert (refused.status, closing.done()) == (503, False)
    upstream.go_on.set()
    await closing
    completed, failed = await rows.all(middleware)
    assert (completed.response_status, failed.response_status) == (200, 503)


async def test_shutdown_past_its_deadline_leaves_a_failed_row_even_of_an_app_that_will_not_stop(
    capture: Capture, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    let_go = asyncio.Event()
    monkeypatch.setattr(background_module, "STOP_GRACE", 0.01)
    middleware = capture(stubborn)
    await Exchange(middleware, ASKED).run()
    await asyncio.sleep(0)
    await middleware.aclose(timeout=0.01)
    assert (middleware.stats.recorded, middleware.stats.pending) == (1, 0)
    let_go.set()
    row = await rows.one(middleware)
    assert (row.status, row.response_status, error_of(row.response_body)["type"]) == ("failed", 503, "server_shutdown")


async def test_a_row_gets_its_end_though_other_calls_are_dropped_as_too_many(capture: Capture, rows: Rows) -> None:
    async def slow_for_bob(api_key: str, scope: Scope) -> str:
        if api_key == "sk-bob":
            await lookup_done.wait()
        return OWNER

    lookup_done = asyncio.Event()
    upstream = Upstream()
    middleware = capture(upstream, attribute=slow_for_bob, max_pending_bytes=3 * CALL_BYTES + STEP)
    await Exchange(middleware, ASKED).run()
    upstream.go_on.set()
    for _ in range(3):
        await Exchange(middleware, key="sk-bob", path="/v1/messages").run()
    await eventually(lambda: middleware.stats.recorded == 1)
    lookup_done.set()
    stored = await rows.all(middleware)
    assert ("/v1/responses", "completed") in [(row.path, row.status) for row in stored]
    assert middleware.stats.dropped == {"overloaded": 4 - len(stored)}
    assert len(stored) < 4


@pytest.mark.parametrize("key", [None, "sk-stranger"])
async def test_without_a_known_key_there_is_neither_row_nor_run(capture: Capture, rows: Rows, key: str | None) -> None:
    upstream = Upstream()
    middleware = capture(upstream)
    exchange = await Exchange(middleware, ASKED, key=key).run()
    assert (exchange.status, exchange.json["error"]["type"]) == (401, "authentication_error")
    assert await rows.all(middleware) == []
    assert not upstream.begun.is_set()
    assert sum(middleware.stats.dropped.values()) == 1


async def test_streamed_and_too_many_are_refused_with_a_row(capture: Capture, rows: Rows) -> None:
    upstream = Upstream()
    middleware = capture(upstream, background_limit=1)
    streamed = await Exchange(middleware, ASKED[:-1] + b',"stream":true}').run()
    first = await Exchange(middleware, ASKED).run()
    second = await Exchange(middleware, ASKED).run()
    assert (streamed.status, streamed.json["error"]["type"]) == (400, "invalid_request_error")
    assert (first.status, second.status, second.headers[b"retry-after"]) == (202, 503, b"1")
    upstream.go_on.set()
    stored = await rows.all(middleware)
    assert sorted((row.status, row.response_status) for row in stored) == [
        ("completed", 200), ("failed", 400), ("failed", 503),
    ]  # fmt: skip


async def test_without_the_database_there_is_a_503_and_never_a_202() -> None:
    upstream = Upstream()
    async with DbEngines.from_url("postgresql://nobody@127.0.0.1:1/none") as away:
        writer = RequestsWriter(away, max_retries=0, check_schema=False, drain_timeout=0)
        async with writer:
            middleware = CaptureMiddleware(upstream, writer, attribute=owners)
            exchange = await Exchange(middleware, ASKED).run()
            await middleware.aclose()
    assert exchange.status == 503
    assert exchange.headers[b"retry-after"] == b"1"
    assert exchange.json["error"]["type"] == "server_error"
    assert not upstream.begun.is_set()


async def test_a_row_that_is_there_though_nobody_heard_so_gets_its_end(
    capture: Capture, rows: Rows, store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost_acknowledgement(self: RequestStore, new: Any) -> None:
        await create(self, new)
        raise ConnectionResetError

    create = RequestStore.create_realtime
    monkeypatch.setattr(RequestStore, "create_realtime", lost_acknowledgement)
    middleware = capture(answering)
    exchange = await Exchange(middleware, ASKED).run()
    assert exchange.status == 503
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 503)


async def test_a_database_that_does_not_answer_is_a_503_within_the_time_for_it(
    capture: Capture, rwriter_engines: TestDbEngines
) -> None:
    middleware = capture(answering, begin_timeout=0.05)
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
        exchange = await Exchange(middleware, ASKED).run()
    assert exchange.status == 503


async def test_a_client_cut_off_while_its_row_is_written_leaves_no_row_in_processing(
    capture: Capture, rows: Rows, rwriter_engines: TestDbEngines
) -> None:
    middleware = capture(answering)
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
        exchange = Exchange(middleware, ASKED).start()
        assert exchange.task is not None
        waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"

        async def waits() -> bool:
            return bool((await connection.execute(text(waiting))).scalar_one())

        await eventually(waits)
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
    await rows.all(middleware)
    async with rwriter_engines.write.connect() as connection:
        states = (await connection.execute(select(requests.c.state))).scalars().all()
    assert states == ["failed"]


async def test_an_owner_in_the_state_must_be_there_before_the_middleware(capture: Capture, rows: Rows) -> None:
    middleware = capture(answering, attribute=attribute_from_state())
    outer = await Exchange(middleware, ASKED, state={"created_by": "t-1"}).run()
    inner = await Exchange(middleware, ASKED).run()
    assert (outer.status, inner.status) == (202, 401)
    assert (await rows.one(middleware)).created_by == "t-1"

"""A WSGI app's answers leave the rows that the same answers of an ASGI app do."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import UUID

import pytest

from rwriter import RequestDetail, RequestStore, RequestsWriter, WriterClosed
from rwriter import asgi as rwriter_asgi
from rwriter.asgi import attribute_from_state
from rwriter.asgi._types import ASGIApp, Receive, Scope, Send
from rwriter.testing import TestDbEngines
from rwriter.threaded import ThreadedWriter
from rwriter.wsgi import CaptureMiddleware
from rwriter.wsgi._types import Environ, StartResponse, WSGIApp
from tests.support.asgi_client import Exchange, owners
from tests.support.folding import NAMES, stream
from tests.support.wsgi_client import Asked
from tests.wsgi.conftest import Capture, Read

SSE = [("Content-Type", "text/event-stream")]
JSON = [("Content-Type", "application/json")]
CHAT = "/v1/chat/completions"
SHOWN = (
    "model", "status", "response_status", "created_by", "path", "input_tokens", "output_tokens", "cached_input_tokens",
    "reasoning_tokens", "metadata", "body", "response_body", "error",
)  # fmt: skip


def answering(*pieces: bytes, headers: Iterable[tuple[str, str]] = JSON, status: str = "200 OK") -> WSGIApp:
    """Make an app that reads its request and answers with ``pieces``."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        environ["wsgi.input"].read()
        start_response(status, list(headers))
        yield from pieces

    return app


def cut(data: bytes) -> list[bytes]:
    return [data[at : at + 700] for at in range(0, len(data), 700)]


def shown(row: RequestDetail, own: str) -> dict[str, Any]:
    # the id of the row is in the body where the app gave none
    return {name: str(getattr(row, name)).replace(own, "ID") for name in SHOWN}


PLAIN = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": []}).encode()
ANSWERS: dict[str, tuple[int, list[tuple[str, str]], list[bytes]]] = {
    **{name: (200, SSE, cut(stream(name))) for name in NAMES},
    "plain": (200, JSON, [PLAIN[:20], PLAIN[20:]]),
    "gzip": (200, [*JSON, ("Content-Encoding", "gzip")], [gzip.compress(PLAIN)]),
    "refused": (429, JSON, [b'{"error": {"type": "rate_limit", "message": "slow down"}}']),
    "error in a 200": (200, JSON, [b'{"error": {"code": 503, "message": "overloaded"}}']),
    "silent": (200, SSE, []),
    "truncated": (200, SSE, cut(stream(NAMES[0]))[:1]),
    "latin": (200, [("Content-Type", "text/plain")], ["Grüße".encode("latin-1")]),
}


def as_asgi(name: str) -> ASGIApp:
    """Make an ASGI app that gives one of the answers."""
    status, headers, pieces = ANSWERS[name]

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        encoded = [(key.lower().encode(), value.encode()) for key, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    return app


async def by_asgi(engines: TestDbEngines) -> dict[str, dict[str, Any]]:
    """Return the row of each answer as the other middleware writes it."""
    ids: dict[str, UUID] = {}
    async with RequestsWriter(engines) as writer:
        for name in ANSWERS:
            middleware = rwriter_asgi.CaptureMiddleware(as_asgi(name), writer, attribute=owners)
            exchange = await Exchange(middleware, path=CHAT).run()
            ids[name] = exchange.scope["state"]["rwriter_request_id"]
            await middleware.flush()
    store = RequestStore(engines)
    rows = {name: await store.get_request(own) for name, own in ids.items()}
    return {name: shown(row, str(row.id)) for name, row in rows.items() if row is not None}


def test_each_answer_leaves_the_row_that_it_leaves_under_asgi(
    capture: Capture, writer: ThreadedWriter, rwriter_engines: TestDbEngines
) -> None:
    expected = asyncio.run(by_asgi(rwriter_engines))
    assert len(expected) == len(ANSWERS)
    asked: dict[str, Asked] = {}
    for name, (status, headers, pieces) in ANSWERS.items():
        middleware = capture(answering(*pieces, headers=headers, status=f"{status} Said"))
        asked[name] = Asked(middleware, path=CHAT)
        assert asked[name].body == b"".join(pieces)
        assert middleware.flush(timeout=30)
    writer.flush(timeout=30)
    for name, one in asked.items():
        own = one.environ["rwriter.request_id"]
        row = writer.store.get_request(own)
        assert row is not None
        assert shown(row, str(own)) == expected[name], name
        assert one.headers["x-rwriter-id"] == f"resp_{own}"
        assert (row.first_token_at is None) == (not ANSWERS[name][2])


def test_an_app_may_write_begin_late_begin_anew_and_read_its_request_in_every_way(
    capture: Capture, recorded: Read
) -> None:
    ways: list[Callable[[Any], bytes]] = [
        lambda body: bytes(body.read()),
        lambda body: bytes(body.read(5) + body.read(-1)),
        lambda body: b"".join(iter(body.readline, b"")),
        lambda body: b"".join(body.readlines()),
        b"".join,
    ]

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert not environ["wsgi.input"].closed
        asked = ways.pop()(environ["wsgi.input"])
        start_response("200 OK", SSE)
        write = start_response("200 OK", JSON, None)
        write(b'{"id": "r-1", "asked": ')
        return [json.dumps(len(asked)).encode(), b"}"]

    middleware = capture(app)
    body = b'{"model": "m",\n "input": "x"}\n'
    for left in range(len(ways), 0, -1):
        assert len(ways) == left
        assert Asked(middleware, body).body == b'{"id": "r-1", "asked": 30}'
    rows = recorded()
    assert [(row.status, row.body, row.response_body) for row in rows] == [
        ("completed", body.decode(), '{"id": "r-1", "asked": 30}')
    ] * 5


def test_a_client_that_leaves_ends_the_call_and_closes_the_apps_answer(capture: Capture, recorded: Read) -> None:
    data, closed = stream("chat_text"), []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", SSE)
        try:
            yield from cut(data)
        finally:
            closed.append(True)

    middleware = capture(app)
    assert len(cut(data)) > 2
    Asked(middleware, path=CHAT, pieces=1)
    assert closed == [True]
    # everything came: what the server does not ask for is the end alone
    Asked(capture(answering(data, b"\n", headers=SSE)), path=CHAT, pieces=1)
    first, second = recorded()
    assert (first.status, first.response_status) == ("failed", 499)
    assert json.loads(first.response_body or "")["error"]["type"] == "client_disconnected"
    assert second.status == "completed"


def test_an_answer_that_has_announced_its_length_is_there_before_the_client_can_ask_for_it(
    capture: Capture, writer: ThreadedWriter
) -> None:
    half = len(PLAIN) // 2
    middleware = capture(answering(PLAIN[:half], PLAIN[half:], headers=[*JSON, ("Content-Length", str(len(PLAIN)))]))
    environ = Asked(capture(answering(b"{}")), key=None).environ | {"HTTP_AUTHORIZATION": "Bearer sk-alice"}
    answer = iter(middleware(environ, lambda *_: None))
    next(answer)
    assert middleware.stats.running == 1
    next(answer)
    # the server has not come back for more, and its client has all of it
    assert middleware.stats.running == 0
    assert middleware.flush(timeout=30)
    writer.flush(timeout=30)
    row = writer.store.get_request(environ["rwriter.request_id"])
    assert row is not None
    assert (row.status, row.response_body) == ("completed", PLAIN.decode())
    assert list(answer) == []


def test_an_app_that_raises_leaves_a_failed_row_and_the_exception_goes_on(capture: Capture, recorded: Read) -> None:
    class NotHere(Exception):
        status_code = 404

    def at_once(_environ: Environ, _start_response: StartResponse) -> list[bytes]:
        raise NotHere

    def in_the_middle(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", SSE)
        yield cut(stream("chat_text"))[0]
        raise ValueError

    def silent(_environ: Environ, _start_response: StartResponse) -> list[bytes]:
        return []

    middleware = capture(at_once)
    with pytest.raises(NotHere):
        Asked(middleware)
    with pytest.raises(ValueError):  # noqa: PT011 -- the app's own
        Asked(capture(in_the_middle), path=CHAT)
    Asked(capture(silent))
    assert [row.response_status for row in recorded()] == [404, 500, 500]


def test_what_is_no_model_call_or_nobodys_leaves_no_row(capture: Capture, recorded: Read) -> None:
    middleware = capture(answering(b"{}"))
    for asked in (
        Asked(middleware, path="/v1/other"),
        Asked(middleware, method="GET"),
        Asked(middleware, key=None),
        Asked(middleware, key="sk-unknown"),
        Asked(capture(answering(b"", status="307 Temporary Redirect"))),
    ):
        assert asked.status in {200, 307}
    assert recorded() == []
    assert middleware.stats.dropped == {"missing_api_key": 1, "unknown_api_key": 1}


def test_the_owner_is_found_by_blocking_by_awaiting_or_in_what_the_app_itself_says(
    capture: Capture, recorded: Read
) -> None:
    serving = threading.get_ident()

    def blocking(api_key: str, environ: Any) -> str:
        assert threading.get_ident() != serving
        return f"{environ['PATH_INFO']} {api_key}"

    async def awaiting(api_key: str, _environ: Any) -> str:
        return f"awaited {api_key}"

    def telling(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["rwriter.state"]["created_by"] = "told"
        start_response("200 OK", JSON)
        return [b"{}"]

    for attribute in (blocking, awaiting, attribute_from_state()):
        Asked(capture(telling, attribute=attribute))
    assert [row.created_by for row in recorded()] == ["/v1/responses sk-alice", "awaited sk-alice", "told"]


def test_a_call_for_which_there_is_no_memory_is_served_and_counted(capture: Capture, recorded: Read) -> None:
    inner: list[Asked] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ.get("is_outer"):
            inner.append(Asked(middleware))
        start_response("200 OK", JSON)
        return [b"{}"]

    middleware = capture(app, max_pending_bytes=1)
    assert Asked(middleware, is_outer=True).body == b"{}"
    assert "x-rwriter-id" not in inner[0].headers
    assert len(recorded()) == 1
    assert middleware.stats.dropped == {"overloaded": 1}


def test_closing_the_writer_takes_the_calls_answered_so_far(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    closing = threading.Event()

    def found_late(_api_key: str, _environ: Any) -> str:
        assert closing.wait(30)
        return "alice"

    writer = ThreadedWriter(rwriter_engines)
    middleware = CaptureMiddleware(answering(b"{}"), writer, attribute=found_late, attribution_ttl=0)
    for _ in range(20):
        Asked(middleware)
    closing.set()
    writer.close()
    assert writer.stats.persisted == 20
    with pytest.raises(WriterClosed):
        Asked(middleware)


def test_options_that_cannot_be_used_are_refused_at_once() -> None:
    writer = ThreadedWriter("postgresql://nowhere/none")
    for options, error in (
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"drain_timeout": -1}, "drain_timeout"),
        ({"lookup_timeout": 0}, "timeout"),
    ):
        with pytest.raises(ValueError, match=error):
            CaptureMiddleware(answering(), writer, attribute=owners, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attribute"):
        CaptureMiddleware(answering(), writer, attribute=None)  # type: ignore[arg-type]

"""The event loop goes on, however much a stored body holds: what is large is rendered on threads and sent in pieces."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from rwriter import CompletedRequest, RequestStore
from rwriter.asgi import responses_app
from rwriter.asgi._ids import response_id
from rwriter.asgi._reader.reader import PIECE_BYTES
from rwriter.asgi._render.response import encoded_response, response_object
from rwriter.asgi._types import ASGIApp, Message
from tests.support.asgi_client import OWNER, owners
from tests.support.counting import calls_of
from tests.support.reading import response_body, response_record
from tests.support.serving import plain_client

SIZE = 20_000


def _with_input(item: str, size: int) -> CompletedRequest:
    return response_record(created_by=OWNER, request_body='{"input":[' + ",".join([item] * size) + "]}")


def _with_output(item: dict[str, Any], size: int) -> CompletedRequest:
    return response_record(response_body(output=[item] * size), created_by=OWNER)


LARGE: dict[str, tuple[Callable[[int], CompletedRequest], str]] = {
    "input items": (lambda n: _with_input('"a"', n), "/input_items?limit=1"),
    "a page behind an item": (lambda n: _with_input('{"id":"x"}', n), "/input_items?limit=1&after=x"),
    "a response": (lambda n: _with_output({"type": "message"}, n), ""),
    "its events": (lambda n: _with_output({"type": "message"}, n), "?stream=true"),
    "events that its client has": (lambda n: _with_output({}, n), "?stream=true&starting_after=9999999"),
    "half a surrogate pair": (lambda n: response_record('["\\ud800"' + ',"a"' * n + "]", created_by=OWNER), ""),
}


async def _get(app: ASGIApp, path: str) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    headers = [(b"authorization", b"Bearer sk-alice")]
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": query.encode()}
    await app({**scope, "headers": headers, "http_version": "1.1", "asgi": {"spec_version": "2.4"}}, receive, send)
    return sent


@pytest.mark.parametrize(("make", "path"), LARGE.values(), ids=LARGE)
async def test_the_loop_does_no_more_for_a_body_of_more_values(
    store: RequestStore, make: Callable[[int], CompletedRequest], path: str
) -> None:
    app = responses_app(store, attribute=owners)
    stored = [make(SIZE), make(SIZE), make(2 * SIZE)]
    await store.persist_completed(stored)

    async def calls(finished: CompletedRequest) -> tuple[int, int]:
        pieces: list[Message] = []
        url = f"/v1/responses/{response_id(finished.request_id)}{path}"

        async def work() -> None:
            pieces.extend(await _get(app, url))

        number = await calls_of(work)
        assert pieces[0]["status"] == 200
        assert all(len(piece.get("body", b"")) <= PIECE_BYTES for piece in pieces)
        return number, len(pieces)

    await calls(stored[0])
    (once, few), (twice, more) = await calls(stored[1]), await calls(stored[2])
    # what grows is the number of pieces that come from the database and go to the client
    assert twice - once <= 200 * (more - few) + SIZE / 20


async def test_a_large_answer_comes_whole(store: RequestStore) -> None:
    finished = _with_output({"type": "message", "id": "m"}, 5_000)
    await store.persist_completed([finished])
    async with plain_client(responses_app(store, attribute=owners)) as client:
        answer = await client.get(f"/v1/responses/{response_id(finished.request_id)}")
    assert int(answer.headers["content-length"]) == len(answer.content) > 2 * PIECE_BYTES
    assert len(answer.json()["output"]) == 5_000


@pytest.mark.parametrize(
    ("query", "render"), [("", encoded_response), ("?stream=true", response_object)], ids=["whole", "replayed"]
)
async def test_what_waits_for_a_thread_is_bounded(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch, query: str, render: Callable[..., Any]
) -> None:
    held = threading.Event()

    def slow(*args: Any) -> Any:
        held.wait(20)
        return render(*args)

    monkeypatch.setattr(f"rwriter.asgi._reader.reader.{render.__name__}", slow)
    monkeypatch.setattr("rwriter.asgi._reader.reader.MOST_WAITING", 3)
    finished = _with_output({"type": "message"}, 500)
    await store.persist_completed([finished])
    url = f"/v1/responses/{response_id(finished.request_id)}{query}"
    async with plain_client(responses_app(store, attribute=owners)) as client:
        asked = [asyncio.create_task(client.get(url)) for _ in range(5)]
        done = []
        for answer in asyncio.as_completed(asked):
            done.append((await answer).status_code)
            if len(done) == 2:
                held.set()
    assert done == [503, 503, 200, 200, 200]

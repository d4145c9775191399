"""Memory of all calls together is bounded, charged as it grows and given back."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest

from rwriter.asgi._capture.budget import CALL_BYTES, STEP, Budget, Part, Share
from rwriter.asgi._capture.exchange import Answer
from rwriter.asgi._capture.stream import LARGE_BYTES, StreamedBody
from rwriter.asgi._types import Receive, Scope, Send
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import DONE, OWNER, SSE, Exchange, begin, chunk, part, read, say


def test_what_is_taken_is_bounded_and_what_is_given_back_can_be_taken() -> None:
    budget = Budget(10 * STEP)
    first, second = Share(budget, 0), Share(budget, 0)
    assert Part(first)(9 * STEP)
    assert not Part(second)(2 * STEP)
    assert Part(second)(STEP)
    assert budget.used == 10 * STEP
    first.settle(0)
    assert budget.used == STEP
    second.settle(0)
    assert budget.used == 0


@pytest.mark.parametrize("count", [1_000, 2_000])
def test_a_body_in_small_pieces_asks_the_budget_by_steps(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    take = Budget.take

    def counting(self: Budget, size: int) -> bool:
        asked.append(size)
        return take(self, size)

    monkeypatch.setattr(Budget, "take", counting)
    grown = Part(Share(Budget(1 << 30), 0))
    assert all(grown(size * 100) for size in range(1, count + 1))
    assert len(asked) <= count * 100 // STEP + 1


def test_a_part_that_shrinks_gives_back_to_its_share() -> None:
    budget = Budget(2 * STEP)
    share = Share(budget, 0)
    stream, other = Part(share), Part(share)
    assert stream(2 * STEP)
    assert not other(STEP)
    assert stream(100)
    assert other(STEP)
    assert budget.used == 2 * STEP


LONG_EVENT = b"data: " + b"x" * (LARGE_BYTES + 1)


@pytest.mark.parametrize("before", [b"data: ", LONG_EVENT], ids=["an event", "behind a large event"])
def test_a_stream_in_tiny_pieces_weighs_what_it_is(before: bytes) -> None:
    stream, size = StreamedBody(None, 1 << 20), 200_000
    stream.feed(before)
    tracemalloc.start()
    try:
        for _ in range(size // 2):
            stream.feed(bytes(bytearray(b"ab")))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # in a list each piece would be 43 bytes
    assert held <= 2 * size
    assert stream.held_bytes >= size or before != LONG_EVENT


def test_a_stream_that_finds_no_room_keeps_what_it_has() -> None:
    budgeted = Answer(1 << 20, Share(Budget(STEP), 0))
    budgeted.start({"status": 200, "headers": SSE})
    for _ in range(1_000):
        budgeted.feed(chunk("x" * 100))
    assert not budgeted.is_truncated, "nobody knows how it ended"
    assert json.loads(budgeted.text()[0])["rwriter"]["envelope"] == "truncated"


async def test_a_call_that_finds_no_room_passes_untouched_and_is_counted(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await begin(send, headers=SSE)
        await part(send, chunk("Hel"))
        await let_go.wait()
        await say_rest(send)

    async def say_rest(send: Send) -> None:
        await send({"type": "http.response.body", "body": DONE})

    let_go = asyncio.Event()
    middleware = capture(app, max_pending_bytes=CALL_BYTES)
    first = Exchange(middleware, path="/v1/chat/completions").start()
    await first.until(2)
    second = Exchange(middleware, path="/v1/chat/completions").start()
    await second.until(2)
    let_go.set()
    await first.end()
    await second.end()
    assert second.body == first.body
    assert b"x-rwriter-id" not in second.headers
    await rows.one(middleware)
    assert middleware.stats.dropped == {"overloaded": 1}
    stats = middleware.stats
    assert (stats.tracked, stats.recorded) == (2, 1)


async def test_headers_are_charged(capture: Capture) -> None:
    async def slow(api_key: str, scope: Scope) -> str:
        await lookup.wait()
        return OWNER

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b"")

    lookup = asyncio.Event()
    middleware = capture(app, attribute=slow, max_pending_bytes=300_000)
    for _ in range(10):
        await Exchange(middleware, b"", path="/v1/messages", headers=[(b"x-large", b"x" * 50_000)]).run()
    assert middleware.stats.pending == 5
    assert middleware.stats.dropped == {"overloaded": 5}
    lookup.set()

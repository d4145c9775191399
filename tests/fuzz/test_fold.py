"""Streams of events that make no sense: twice the events take twice the work, in memory that the limit bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rwriter.asgi._capture.stream import StreamedBody
from tests.fuzz.bounds import at_most_doubled, fuzzed, peak_of
from tests.support.folding import NAMES, event, stream
from tests.support.odd_values import frames, objects, values

LIMIT = 50_000
LARGE = 1 << 26
"""Nothing here is as large: past the limit a head and a tail are skimmed, once."""
TIMES = 40

endings = st.sampled_from([b"", b"data: [DONE]\n\n", b"data: {", b"\n\n\r\r"])


def text_of(pieces: list[bytes], limit: int = LIMIT) -> str:
    body = StreamedBody(None, limit)
    for piece in pieces:
        body.feed(piece)
    return body.text()[0]


def folding(pieces: list[bytes]) -> Callable[[int], Callable[[], Any]]:
    return lambda times: lambda: text_of(pieces * times)


@fuzzed
@given(st.lists(frames | st.binary(max_size=50), min_size=1, max_size=5), endings)
def test_events_over_and_over(pieces: list[bytes], ending: bytes) -> None:
    at_most_doubled(folding([*pieces, ending]), TIMES)
    text, peak = peak_of(text_of, [*pieces, ending] * TIMES)
    assert peak <= 40 * LIMIT + 20 * sum(map(len, pieces)) * TIMES
    assert len(text) <= 2 * LIMIT + 10_000


@fuzzed
@given(st.sampled_from(NAMES), st.lists(frames, max_size=3))
def test_a_recorded_stream_over_and_over(name: str, pieces: list[bytes]) -> None:
    at_most_doubled(folding([stream(name), *pieces]), 4)


@fuzzed
@given(objects | values, st.sampled_from(["tool_calls", "content", "output", "choices", "annotations", "logprobs"]))
def test_an_event_of_many_members(member: Any, name: str) -> None:
    """One event in which a list, and an object, grow."""

    def work(times: int) -> Callable[[], Any]:
        many = [{"index": number, **member} if isinstance(member, dict) else member for number in range(times)]
        keys = {f"{name}{number}": member for number in range(times)}
        delta = {"index": 0, "delta": {name: many, **keys}, name: many, **keys}
        chat = event({"object": "chat.completion.chunk", "choices": [delta], name: many})
        final = event({"type": "response.completed", "response": {"id": "r", name: many, "output": many}})
        block = event({"type": "message_start", "message": {"id": "m", "content": many, name: many, **keys}})
        return lambda: [text_of([one], LARGE) for one in (chat, final, block)]

    at_most_doubled(work, 200)


@fuzzed
@given(st.lists(frames, min_size=1, max_size=6), st.integers(100, 2_000))
def test_a_limit_of_any_size_is_kept(pieces: list[bytes], limit: int) -> None:
    text = text_of(pieces * 10, limit)
    assert len(text.encode()) <= 2 * limit + 70_000 * 7
    msgspec.json.decode(text) if text.startswith("{") else None

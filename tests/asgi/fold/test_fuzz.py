"""No bytes make a fold raise, and what it gives can always be stored."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.folding import NAMES, event, fold, stream
from tests.support.odd_values import frames

LIMIT = 2_000


def sound(pieces: list[bytes], limit: int = LIMIT) -> None:
    made = fold(pieces, limit)
    result = made.result()
    text = msgspec.json.encode(result.body)
    assert made.ended == (result.complete or result.error is not None)
    assert result.error is None or 400 <= result.error.status <= 599
    if result.error is None:
        assert len(text) <= limit + 200
    assert made.result() == result


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes(pieces: list[bytes]) -> None:
    sound(pieces)


@settings(max_examples=100, deadline=None)
@given(st.lists(frames, max_size=8))
def test_any_objects_in_any_order(pieces: list[bytes]) -> None:
    sound(pieces)
    sound(pieces, 100_000)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.lists(st.tuples(st.integers(0, 8000), st.binary(max_size=3)), max_size=8))
def test_recorded_streams_with_bytes_changed(name: str, changes: list[tuple[int, bytes]]) -> None:
    data = stream(name)
    for at, other in changes:
        data = data[:at] + other + data[at + len(other) :]
    sound([data], 100_000)


def nested(depth: int, begin: bytes = b"[", end: bytes = b"]") -> bytes:
    return begin * depth + end * depth


def test_nesting_of_any_depth() -> None:
    for depth in (10, 100, 500, 800, 900, 950, 980, 1100, 100_000):
        wide = b'{"choices":[{"index":0,"delta":{"content":"a","x":' + nested(depth) + b"}}]}"
        deep = b'{"choices":[{"index":0,"delta":{"content":"a","x":' + nested(depth, b'{"x":', b"}")[:-depth]
        deep += b"1" + b"}" * depth + b"}}]}"
        made = fold([event(wide), event(deep), event(wide), event(b"[DONE]")])
        assert made.result().complete


def depth_first(node: Any) -> int:
    return 1 + max(map(depth_first, node), default=0) if isinstance(node, list) else 0


def test_nesting_that_can_be_read_is_kept() -> None:
    made = fold([event(b'{"choices":[],"x":' + nested(100) + b"}")]).result()
    assert made.body is not None
    assert depth_first(made.body["x"]) == 100

"""Strategies for values and events that are made of the words of real streams, and make no sense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.support.folding import NAMES, event, events_of


def words(node: Any) -> Iterator[str]:
    """Every key in ``node``."""
    if isinstance(node, dict):
        yield from node
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from words(one)


EVENTS = [one for name in NAMES for one in events_of(name)]
_WORDS = sorted({word for one in EVENTS for word in words(one)} | {"error", "item_id", "message"})
_TYPES = sorted({one["type"] for one in EVENTS if "type" in one} | {"response.failed", "error", "text_delta"})

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 3),
    st.integers(min_value=2**70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from(_TYPES),
    st.sampled_from(["chat.completion.chunk", "text_completion", "{", "{}", "400", "[DONE]"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=5),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(_WORDS), values, max_size=6)
typed = st.builds(lambda made, kind: {**made, "type": kind}, objects, st.sampled_from(_TYPES))
chunks = st.builds(lambda made, choices: {**made, "choices": choices}, objects, st.lists(objects, max_size=3))
frames = st.builds(event, typed | chunks | values, st.sampled_from(["", *_TYPES]))

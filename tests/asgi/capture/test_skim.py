"""Both ends of an object say the same as a parser that reads the whole."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwriter.asgi._capture.facts import skim

WANTED = ("id", "model", "usage")
names = st.sampled_from([*WANTED, "other", '"', "\\", '\\"', ""])
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text('"\\{}[]:, aé\n', max_size=12)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, values, max_size=6), st.sampled_from([None, 1]), st.booleans())
def test_either_end_alone_says_what_a_parser_says(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    expected = {name: member for name, member in value.items() if name in WANTED}
    assert skim(data, b"", WANTED) == skim(b"", data, WANTED) == expected


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_taken(head: bytes, tail: bytes) -> None:
    skim(b"{" + head, tail + b"}", WANTED)

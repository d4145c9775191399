"""Texts that are nearly JSON: members are read in one pass, and nothing raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rwriter.asgi import _json
from rwriter.asgi._capture.facts import Asked, Said, error_told, metadata_of, read, skim, tokens_of
from tests.fuzz.bounds import at_most_doubled, calls_of, fuzzed, peak_of

WANTED = ("id", "model", "usage", "status", "error")
TOKENS = (
    *'{}[]:,"\\\n0a',
    *('"id"', '"model":', '"usage":{', '"error":', '"choices":[', '"x":1,', '\\"', "\\u00e9", "\\ud800", "\ufeff"),
    *("NaN", "-Infinity", "1e999", "null", "true", '{"a":1},', '[["b"]],', "\x00", "é", "\U0001f680"),
)

pieces = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12).map("".join)
texts = st.builds(
    lambda head, unit, times, tail: head + unit * times + tail, pieces, pieces, st.integers(0, 60), pieces
)


def everything(text: str) -> None:
    data = text.encode("utf-8", "replace")
    skim(data[:65_536], data[-65_536:], WANTED)
    said = read(text, Said)
    error_told(said, text)
    tokens_of(said)
    metadata_of(read(text, Asked), None)
    _json.loads(text)
    _json.peek(text, Asked)
    _json.shallow(text, WANTED)
    _json.Members(*WANTED).of(text)
    _json.with_error(text, {"code": "c"})


@fuzzed
@given(texts)
def test_a_text_that_is_nearly_json(text: str) -> None:
    _, peak = peak_of(everything, text)
    assert peak <= 500_000 + 1_000 * len(text)
    assert calls_of(everything, text) <= 5_000 + 60 * len(text)


@fuzzed
@given(pieces, pieces, pieces)
def test_twice_the_text_is_twice_the_work(head: str, unit: str, tail: str) -> None:
    def work(times: int) -> Callable[[], Any]:
        return lambda: everything(head + unit * times + tail)

    at_most_doubled(work, 300)


@fuzzed
@given(st.dictionaries(st.sampled_from([*WANTED, "x", "y"]), st.integers() | st.text(max_size=5), max_size=5), texts)
def test_members_of_an_object_are_found_whatever_a_member_between_them_holds(
    members: dict[str, Any], text: str
) -> None:
    data = _json.dumps({**members, "between": text, "z": 1})
    assert skim(data, data, WANTED) == {name: value for name, value in members.items() if name in WANTED}

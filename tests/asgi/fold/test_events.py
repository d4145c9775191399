"""The bytes of an event stream become the events that the HTML standard says they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwriter.asgi._fold.events import Event, EventParser
from tests.support.folding import ENDINGS, bytewise


def parse(*pieces: bytes, max_bytes: int = 1000) -> list[Event]:
    parser = EventParser(max_bytes=max_bytes)
    return [one for piece in pieces for one in parser.feed(piece)]


CASES = {
    "a field with one space after its colon": (b"data: x\n\n", [Event("", b"x")]),
    "a field with two: one belongs to the value": (b"data:  x\n\n", [Event("", b" x")]),
    "a field with none": (b"data:x\n\n", [Event("", b"x")]),
    "a field without a colon is empty": (b"data\n\n", [Event("", b"")]),
    "lines of data are joined": (b"data: a\ndata\ndata: b\n\n", [Event("", b"a\n\nb")]),
    "a name": (b"event: n\ndata: x\n\n", [Event("n", b"x")]),
    "the last name counts": (b"event: a\nevent: b\ndata: x\n\n", [Event("b", b"x")]),
    "a name after the data": (b"data: x\nevent: n\n\n", [Event("n", b"x")]),
    "a name without data is forgotten": (b"event: n\n\ndata: x\n\n", [Event("", b"x")]),
    "a name holds for one event": (b"event: n\ndata: x\n\ndata: y\n\n", [Event("n", b"x"), Event("", b"y")]),
    "comments": (b": c\n:\ndata: x\n: data: y\n\n:\n\n", [Event("", b"x")]),
    "id, retry and unknown fields": (b"id: 7\nretry: 10\nfoo: bar\ndata: x\n\n", [Event("", b"x")]),
    "names of fields are exact": (b"Data: x\n data: y\ndatas: z\ndata: ok\n\n", [Event("", b"ok")]),
    "colons in the value": (b"data: a:b: c\n\n", [Event("", b"a:b: c")]),
    "blank lines between": (b"\n\n\ndata: x\n\n\n\ndata: y\n\n", [Event("", b"x"), Event("", b"y")]),
    "a byte order mark at the start": (b"\xef\xbb\xbfdata: x\n\n", [Event("", b"x")]),
    "one later is no mark": (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [Event("", b"x")]),
    "an unfinished event is discarded": (b"data: x\n\ndata: y\n", [Event("", b"x")]),
    "no other character ends a line": (
        "data: \u2028\u2029\x0b\x0c\x85\n\n".encode(),
        [Event("", "\u2028\u2029\x0b\x0c\x85".encode())],
    ),
    "bytes that are no UTF-8": (b"event: \xff\ndata: \xff\n\n", [Event("\ufffd", b"\xff")]),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize(("text", "events"), CASES.values(), ids=CASES)
def test_each_rule_holds_however_the_bytes_are_cut(text: bytes, events: list[Event], ending: bytes) -> None:
    text = text.replace(b"\n", ending)
    expected = [Event(one.name, one.data.replace(ending, b"\n")) for one in events]
    assert parse(text) == expected
    assert parse(*bytewise(text)) == expected
    for at in range(len(text)):
        assert parse(text[:at], b"", text[at:]) == expected


def test_an_event_is_there_as_soon_as_its_blank_line_is() -> None:
    parser = EventParser(max_bytes=100)
    assert [len(parser.feed(one)) for one in (b"data: x", b"\r", b"\n", b"\r", b"\ndata: y\r\r")] == [0, 0, 0, 1, 1]


def test_line_endings_may_be_mixed() -> None:
    assert parse(b"data: a\r\ndata: b\rdata: c\n\r\n\rdata: d\n\r") == [Event("", b"a\nb\nc"), Event("", b"d")]


@given(st.lists(st.sampled_from([b"data: x", b"data", b"\n", b"\r", b"\r\n", b"event: e", b":c", b"\xef\xbb\xbf"])))
def test_cutting_never_matters(parts: list[bytes]) -> None:
    text = b"".join(parts)
    assert parse(*bytewise(text)) == parse(text)


LARGE = {
    "one long line": b"event: big\ndata: " + b"x" * 200 + b"\n\n",
    "many lines": b"event: big\n" + b"data: 0123456789\n" * 20 + b"\n",
    "very many empty lines": b"event: big\n" + b"data\n" * 200 + b"\n",
    "data before and after": b"data: y\ndata: " + b"x" * 200 + b"\nevent: big\ndata: z\n\n",
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_an_event_that_is_too_large_comes_without_data_and_the_next_is_whole(text: bytes) -> None:
    after = b"data: after\n\n"
    for pieces in ([text + after], bytewise(text + after)):
        parser = EventParser(max_bytes=100)
        events = [one for piece in pieces for one in parser.feed(piece)]
        assert events == [Event("big", b"", lost=True), Event("", b"after")]
        assert parser.overflowed


def test_what_is_skipped_anyway_may_have_any_length() -> None:
    text = b"data: x\n:" + b"c" * 500 + b"\nid: " + b"data: no" * 100 + b"\ndata: y\n\n"
    for pieces in ([text], bytewise(text)):
        parser = EventParser(max_bytes=100)
        assert [one for piece in pieces for one in parser.feed(piece)] == [Event("", b"x\ny")]
        assert not parser.overflowed


def test_an_event_of_just_the_limit_is_kept() -> None:
    assert parse(b"data: " + b"x" * 100 + b"\n\n", max_bytes=100) == [Event("", b"x" * 100)]
    assert parse(b"data: " + b"x" * 101 + b"\n\n", max_bytes=100) == [Event("", b"", lost=True)]

"""A folded stream equals the object that the same answer is without streaming, however its bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwriter.asgi._fold.stream import Folded
from tests.support.folding import ENDINGS, NAMES, bytewise, folded, stream, whole

every_stream = pytest.mark.parametrize("name", NAMES)


def expected(name: str) -> Folded:
    return Folded(whole(name), complete=True, error=None, truncated=False)


def test_the_corpus_has_every_kind() -> None:
    assert {whole(name).get("object", "message") for name in NAMES} == {
        "chat.completion",
        "text_completion",
        "response",
        "message",
    }


@every_stream
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_stream_in_one_piece_or_in_single_bytes(name: str, ending: bytes) -> None:
    data = stream(name, ending)
    assert folded(data) == expected(name)
    assert folded(*bytewise(data)) == expected(name)


@pytest.mark.parametrize(
    ("name", "ending"),
    [(name, b"\n") for name in NAMES]
    + [(name, b"\r\n") for name in ("chat_tools", "text_completion", "responses_incomplete", "messages_text")],
)
def test_a_stream_cut_in_two_at_every_byte(name: str, ending: bytes) -> None:
    data, one = stream(name, ending), expected(name)
    for at in range(len(data)):
        assert folded(data[:at], data[at:]) == one, at


@every_stream
@settings(max_examples=20, deadline=None)
@given(choice=st.data())
def test_a_stream_in_any_pieces_and_any_line_endings(name: str, choice: st.DataObject) -> None:
    ends = choice.draw(st.lists(st.sampled_from(list(ENDINGS.values())), min_size=1, max_size=7))
    events = stream(name).removesuffix(b"\n\n").split(b"\n\n")
    data = b"".join((one + b"\n\n").replace(b"\n", ends[at % len(ends)]) for at, one in enumerate(events))
    cuts = sorted(choice.draw(st.sets(st.integers(0, len(data)), max_size=40)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert folded(*pieces) == expected(name)

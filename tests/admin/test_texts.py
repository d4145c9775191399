"""Bodies are laid out for reading, in a time and a size that grow with them and no faster."""

from __future__ import annotations

import pytest

from rwriter.admin._texts import SHOWN, laid_out, lines
from tests.support.counting import Calls


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"a":[1,2.50],"a":"\\u202e"}', '{\n  "a": [\n    1,\n    2.50\n  ],\n  "a": "\\u202e"\n}'),
        ('"\u202e\u200b"', '"\\u202e\\u200b"'),
        ("", ""),
        ("no json\r\n\x1b[2J", "no json\\r\n\\x1b[2J"),
        ('{"a":', '{"a":'),
        ("data: {}\n\ndata: [DONE]", "data: {}\n\ndata: [DONE]"),
        ("[" * 33 + "]" * 33, "[" * 33 + "]" * 33),
        ("x" * (SHOWN + 1), "x" * SHOWN),
    ],
)
def test_json_is_indented_and_everything_else_is_as_it_is_but_for_what_hides(body: str, shown: str) -> None:
    assert laid_out(body) == shown


def test_line_ends_stay() -> None:
    assert lines("a\nb\u2028c\n") == "a\nb\\u2028c\n"


@pytest.mark.parametrize("piece", ['"\\', '"', "[", '{"a":', "[1,", "\\", '"a",', "[[],"], ids=repr)
def test_no_body_makes_more_work_than_its_size(piece: str) -> None:
    def calls(size: int) -> int:
        counted = Calls()
        with counted.counted():
            assert len(laid_out(piece * (size // len(piece)))) <= 40 * size
        return counted.number

    # calls do not see what a pattern does by itself: a square there, of a whole body, would be minutes
    laid_out(piece * (SHOWN // len(piece)))
    assert calls(SHOWN) <= 4 * calls(SHOWN // 4) + 100

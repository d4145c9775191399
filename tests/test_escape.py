"""Texts of others are printed and logged as one line that a terminal only shows."""

from __future__ import annotations

import json
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwriter._values.escape import escape, escape_json

HARMLESS = "Grüße, 東京　Ωμέγα 🙂 a\\b {}[]\"'"
ANY_TEXT = st.text(st.characters(codec="utf-8"))


@pytest.mark.parametrize(
    ("character", "spelled"),
    [
        ("\n", r"\n"),
        ("\r", r"\r"),
        ("\t", r"\t"),
        ("\x07", r"\x07"),
        ("\x1b", r"\x1b"),
        ("\x7f", r"\x7f"),
        ("\x85", r"\x85"),
        ("\x9b", r"\x9b"),
        ("\u061c", r"\u061c"),
        ("\u200b", r"\u200b"),
        ("\u202e", r"\u202e"),
        ("\u2028", r"\u2028"),
        ("\u2029", r"\u2029"),
        ("\u2066", r"\u2066"),
        ("\ufeff", r"\ufeff"),
        ("\ud800", r"\ud800"),
        ("\ue000", r"\ue000"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_moves_the_cursor_or_hides_is_spelled_out(character: str, spelled: str) -> None:
    assert escape(f"a{character}b") == f"a{spelled}b"


def test_what_people_write_stays_as_it_is() -> None:
    assert escape(HARMLESS) == HARMLESS
    assert escape_json(json.dumps(HARMLESS, ensure_ascii=False)) == json.dumps(HARMLESS, ensure_ascii=False)


def harmless(text: str) -> bool:
    return all(unicodedata.category(character)[0] != "C" for character in text) and len(text.splitlines()) <= 1


@given(ANY_TEXT)
def test_every_text_becomes_one_harmless_line(text: str) -> None:
    assert harmless(escape(text))
    assert escape(escape(text)) == escape(text)


@given(st.dictionaries(ANY_TEXT, ANY_TEXT))
def test_json_is_harmless_and_says_the_same(value: dict[str, str]) -> None:
    shown = escape_json(msgspec.json.encode(value).decode())
    assert harmless(shown)
    assert json.loads(shown) == value

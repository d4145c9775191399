"""Large lists and objects are decoded in slices, and hold what they hold when they are decoded at once."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwriter.asgi import _slices
from rwriter.asgi._slices import items_of, members_of, values_of

VALUES: dict[str, Any] = {
    "texts": "a",
    "commas and brackets in texts": '},{"],[","',
    "objects": {"a": 1},
    "objects in lists": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}],
    "lists in lists": [[1, 2], [3, 4]],
    "numbers": 12.5,
    "nothing": None,
    "large items": {"text": "x," * 500, "more": [1, 2, 3]},
}


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_slices, "SLICE_BYTES", 1_000)


def read(raw: list[msgspec.Raw]) -> list[Any]:
    return [json.loads(bytes(one)) for one in raw]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_the_slices_of_a_list_are_its_items(value: Any, indent: int | None) -> None:
    text = json.dumps([value] * 1_000, indent=indent).encode()
    slices = list(items_of(text))
    assert [one for slice_ in slices for one in read(slice_)] == [value] * 1_000
    assert [one for slice_ in values_of(text) for one in slice_] == [value] * 1_000
    assert len(slices) > 5


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_the_slices_of_an_object_are_its_members(value: Any) -> None:
    whole = {f"key {number}": value for number in range(1_000)}
    slices = list(members_of(json.dumps(whole).encode()))
    made = {name: json.loads(bytes(raw)) for slice_ in slices for name, raw in slice_.items()}
    assert made == whole
    assert list(made) == list(whole)
    assert len(slices) > 5


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(json_values, max_size=40), st.sampled_from([None, 1]))
def test_any_list_is_cut_between_its_items(values: list[Any], indent: int | None) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    assert [one for slice_ in items_of(text) for one in read(slice_)] == values


BROKEN = {
    "a comma at the end": b"[" + b"1," * 200 + b"]",
    "a comma at the beginning": b"[," + b"1," * 200 + b"1]",
    "two commas": b"[" + b"1," * 200 + b",1]",
    "a comma at a seam": b'["' + b"a" * 90 + b'",,' + b'"b",' * 60 + b'"c"]',
    "not closed": b"[" + b"1," * 200 + b"[1]",
    "another bracket": b"[" + b"1," * 200 + b"1}]",
    "a text that is not closed": b"[" + b"1," * 200 + b'"]',
    "nested without end": b"[" * 50_000 + b"]" * 50_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_is_no_list_is_refused_as_a_whole_is(text: bytes) -> None:
    for decode in (msgspec.json.decode, lambda broken: list(items_of(broken)), lambda broken: list(values_of(broken))):
        with pytest.raises((msgspec.MsgspecError, ValueError, RecursionError)):
            decode(text)


@pytest.mark.parametrize("item", ['"a"', '{"a":1}', '{"text":"' + "x," * 2_000 + '"}', "[" + "1," * 5_000 + "1]"])
def test_twice_the_list_is_twice_the_bytes_decoded(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real = _slices._ITEMS

    def counted(text: bytes) -> list[msgspec.Raw]:
        decoded.append(len(text))
        return real(text)

    monkeypatch.setattr(_slices, "_ITEMS", counted)

    def work(size: int) -> tuple[int, int]:
        decoded.clear()
        text = b"[" + b",".join([item.encode()] * (size // len(item) + 1)) + b"]"
        assert sum(map(len, items_of(text))) == size // len(item) + 1
        return sum(decoded), max(decoded)

    (once, _), (twice, most_of_twice) = work(50_000), work(100_000)
    assert twice <= 2.3 * once
    assert most_of_twice <= 1_000 + 2 or len(item) > 1_000

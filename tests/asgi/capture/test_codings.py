"""Codings are undone within bounds: what passes through, what comes in, and how often."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import pytest

from rwriter.asgi._capture import codings
from rwriter.asgi._capture.body import Body
from rwriter.asgi._capture.codings import UndecodableBody, decode, decoders
from rwriter.asgi._capture.facts import skim
from tests.fuzz.bounds import peak_of
from tests.support.zstd import zstd

WANTED = ("id", "model", "usage", "status")


def kind_of(data: bytes, coding: str) -> str:
    body = Body(1 << 20)
    body.feed(data)
    kind: str = json.loads(body.text(coding))["rwriter"]["envelope"]
    return kind


def squeezed(pieces: Iterator[bytes], times: int) -> bytes:
    packers = [zlib.compressobj(9, wbits=31) for _ in range(times)]
    for packer in packers:
        pieces = iter([b"".join(packer.compress(piece) for piece in pieces) + packer.flush()])
    return b"".join(pieces)


@pytest.mark.parametrize("coding", [", ".join(["gzip"] * 5), ",".join(["identity", "br", "zstd"] * 40)])
def test_a_body_of_more_codings_than_anybody_uses_is_kept_as_it_came(coding: str) -> None:
    assert kind_of(b'{"model":"m"}', coding) == "base64"
    with pytest.raises(UndecodableBody):
        decoders(coding)


def test_four_codings_are_undone() -> None:
    text = b"four times over"
    for _ in range(4):
        text = gzip.compress(text)
    body = Body(1_000)
    body.feed(text)
    assert body.text("gzip, gzip, gzip,gzip") == "four times over"


def test_what_passes_between_two_codings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codings, "BETWEEN", 1 << 20)
    nothing = squeezed((b"\x00\x00\x00\xff\xff" * 100_000 for _ in range(20)), 1)
    assert len(nothing) < 20_000
    assert kind_of(nothing, "deflate, gzip") == "base64"


PACKERS: dict[str, Any] = {
    "gzip": gzip.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("outer", PACKERS)
@pytest.mark.parametrize("inner", PACKERS)
def test_whatever_two_codings_hold_the_output_is_bounded(inner: str, outer: str) -> None:
    limit = 100_000
    packed = PACKERS[outer](PACKERS[inner](b'{"input":"' + b"a" * 20 * limit + b'"}'))
    assert len(packed) < 10_000
    body = Body(limit)
    body.feed(packed)
    text, peak = peak_of(body.text, f"{inner}, {outer}")
    assert json.loads(text)["rwriter"]["envelope"] == "truncated"
    assert peak <= 80 * limit  # the windows of brotli and zstd alone take 6 and 2 MB, whatever the output is


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_members_that_hold_nothing_are_bounded(coding: str, pack: Any) -> None:
    few, many = Body(1 << 20), Body(1 << 20)
    few.feed(pack(b"") * codings.EMPTY_MEMBERS + pack(b"text"))
    many.feed(pack(b"") * (codings.EMPTY_MEMBERS + 1) + pack(b"text"))
    assert few.text(coding) == "text"
    assert json.loads(many.text(coding))["rwriter"]["envelope"] == "base64"


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_members_that_hold_little_are_bounded(coding: str, pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codings, "MOST_MEMBERS", 10)
    few, many = Body(1 << 20), Body(1 << 20)
    few.feed(pack(b"x") * 10)
    many.feed(pack(b"x") * 12)
    assert few.text(coding) == "x" * 10
    assert json.loads(many.text(coding))["rwriter"]["envelope"] == "base64"


def test_what_comes_behind_the_end_of_deflate_is_not_kept() -> None:
    chain = decoders("deflate")
    assert b"".join(decode(chain, zlib.compress(b"text"))) == b"text"
    tracemalloc.start()
    for _ in range(200):
        assert b"".join(decode(chain, b"x" * 10_000)) == b""
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 100_000


def test_many_members_cost_what_they_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(count: int) -> int:
        """Bytes that are handed to the decoder, copies of what a member left included."""
        handed = 0
        inflate = codings._inflate

        def counting(stream: Any, data: bytes) -> Iterator[bytes]:
            nonlocal handed
            handed += len(data)
            return inflate(stream, data)

        with monkeypatch.context() as patch:
            patch.setattr(codings, "_inflate", counting)
            data = gzip.compress(b"x") * count
            assert b"".join(decode(decoders("gzip"), data)) == b"x" * count
        return handed

    once, twice = copied(2_000), copied(4_000)
    assert twice <= 2.1 * once


def test_a_zstd_frame_may_ask_for_a_window_of_eight_megabytes_and_no_more() -> None:
    large: Any = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}
    packer = zstd.ZstdCompressor(options=large)
    assert kind_of(packer.compress(b"x" * 100) + packer.flush(), "zstd") == "base64"


CASES = [
    {"id": "a\\", "output": [{"id": "x", "text": '"}{][",:\\' * 30_000}], "usage": {"b": {"c": [2]}}, "model": 'm"q'},
    {"model": "é", "output": "x" * 200_000, "status": None, "id": 'resp\\\\"'},
    {"output": ["x" * 200_000, {"usage": 1, "id": 2}], "usage": {"x": [1, "]"]}},
]  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("value", CASES, ids=["quotes", "both ends", "nested"])
def test_small_members_are_read_from_both_ends(value: dict[str, Any], indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=False, indent=indent).encode()
    expected = {name: member for name, member in value.items() if name in WANTED}
    assert skim(data[:65_536], data[-65_536:], WANTED) == expected


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b'"id"', b'{"id"', b'{"id":', b'{"id":"x', b"}", b'"}', b':"}', b"{}", b"{]"]
)
def test_what_is_no_object_has_no_members(data: bytes) -> None:
    assert skim(data, data, WANTED) == {}


def test_a_member_that_a_strict_parser_refuses_costs_no_other() -> None:
    data = b'\xef\xbb\xbf{"id":"x","score":-Infinity,"usage":{"n":NaN},"model":"m"}'
    assert skim(data, data, WANTED) == {"id": "x", "usage": {"n": None}, "model": "m"}


def test_a_body_in_many_pieces_weighs_what_it_is() -> None:
    body = Body(1 << 20)
    for _ in range(10_000):
        body.feed(b"ab")
    assert (body.kept, body.text()) == (20_000, "ab" * 10_000)


@pytest.mark.parametrize("step", [999, 70_000, 500_000])
def test_of_a_body_over_the_limit_the_small_members_are_kept(step: int) -> None:
    answer = {"id": "r", "object": "response", "output": ["A" * 300_000], "usage": {"input_tokens": 5}, "model": "m"}
    data = json.dumps(answer).encode()
    body = Body(80_000)
    for at in range(0, len(data), step):
        body.feed(data[at : at + step])
    kept = json.loads(body.text())
    envelope = kept.pop("rwriter")
    assert kept == {name: answer[name] for name in ("id", "object", "usage", "model")}
    assert (envelope["envelope"], envelope["size"], envelope["head"]) == (
        "truncated",
        len(data),
        data[:65_536].decode(),
    )


def test_a_body_that_no_memory_is_left_for_keeps_its_ends() -> None:
    body = Body(1 << 20, lambda size: size <= 1_000)
    for piece in (b'{"id":"r","text":"', b"x" * 500, b"x" * 5_000, b'","model":"m"}'):
        body.feed(piece)
    assert body.overflowed
    kept = json.loads(body.text())
    assert (kept["id"], kept["model"], kept["rwriter"]["envelope"]) == ("r", "m", "truncated")

"""Chains of codings, cut and bent: a body within bounds comes of each."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from unittest.mock import patch

import brotli
from hypothesis import given
from hypothesis import strategies as st

from rwriter.asgi._capture import codings
from rwriter.asgi._capture.body import Body
from tests.fuzz.bounds import fuzzed, peak_of
from tests.support.counting import Calls
from tests.support.zstd import zstd

LIMIT = 64 * 1024
BETWEEN = 1 << 20
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "x-gzip": lambda data: gzip.compress(data, 1),
    "br": lambda data: brotli.compress(data, quality=1),
    "zstd": zstd.compress,
    "identity": lambda data: data,
}

payloads = st.builds(lambda unit, times: unit * times, st.binary(max_size=40), st.sampled_from([0, 1, 50, 5_000]))
layers = st.lists(
    st.tuples(st.sampled_from(sorted(PACK)), st.sampled_from([0, 1, 2, 70, 3_000]), st.binary(max_size=3)), max_size=6
)
bends = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=3)), max_size=2)


def packed(payload: bytes, chain: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """Pack ``payload`` in each layer so many times over, with junk behind, and yield what each layer made."""
    for name, members, junk in chain:
        payload = PACK[name](payload[:LIMIT]) * members + junk
        yield payload


def steps(data: bytes) -> int:
    """Return the calls that decoding may take: for each byte that came in, and for those between two codings."""
    member = 24  # bytes of the smallest member, and some calls for each
    between = (codings.MOST_CODINGS - 1) * (BETWEEN // 256 + codings.MOST_MEMBERS * member)
    return 5_000 + len(data) * member + between


@fuzzed
@given(payloads, layers, bends, st.sampled_from(["", "gzip", "br", "compress", "GZIP , gzip", ",,gzip"]))
def test_a_chain_of_codings(
    payload: bytes, chain: list[tuple[str, int, bytes]], changes: list[tuple[int, bytes]], more: str
) -> None:
    data = [payload, *packed(payload, chain)][-1][: 4 * LIMIT]
    for at, other in changes:
        data = data[:at] + other + data[at + len(other) :]
    names = ",".join([*(name for name, _, _ in chain), more])
    calls = Calls()

    def text() -> str:
        body = Body(4 * LIMIT)
        body.feed(data)
        with calls.counted():
            return body.text(names)

    with patch.object(codings, "BETWEEN", BETWEEN):
        found, peak = peak_of(text)
    assert calls.number <= steps(data)
    assert peak <= 32 * codings.PIECE
    assert len(found) <= 8 * LIMIT + 1_000


@fuzzed
@given(
    st.lists(st.sampled_from(sorted(PACK)), min_size=1, max_size=codings.MOST_CODINGS),
    st.text(min_size=1, max_size=2_000),
)
def test_a_chain_that_nobody_bent_is_undone(names: list[str], text: str) -> None:
    data = text.encode()
    for name in names:
        data = PACK[name](data)
    body = Body(1 << 20)
    body.feed(data)
    assert body.text(", ".join(names)) == text

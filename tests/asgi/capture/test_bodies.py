"""Bodies of any coding, any bytes and any size."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import tracemalloc
import zlib
from typing import Any

import brotli
import pytest

from rwriter.asgi._capture.body import HEAD_BYTES, Body
from rwriter.asgi._capture.codings import decode, decoders
from rwriter.asgi._types import Receive, Scope, Send
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import DONE, SSE, Exchange, chunk, read, say
from tests.support.zstd import zstd

TEXT = '{"model":"gpt-test","input":"' + "héllo 🌍 " * 500 + '"}'


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODED = [
    ("gzip", gzip.compress(TEXT.encode())),
    ("x-gzip", gzip.compress(TEXT[:99].encode()) + gzip.compress(TEXT[99:].encode())),
    ("deflate", zlib.compress(TEXT.encode())),
    ("deflate", bare_deflate(TEXT.encode())),
    ("br", brotli.compress(TEXT.encode())),
    ("zstd", zstd.compress(TEXT.encode())),
    ("zstd", zstd.compress(TEXT[:99].encode()) + zstd.compress(TEXT[99:].encode())),
    ("gzip, br", brotli.compress(gzip.compress(TEXT.encode()))),
    ("identity", TEXT.encode()),
]
NAMES = ["gzip", "gzip in two", "deflate", "bare deflate", "br", "zstd", "zstd in two", "gzip in br", "identity"]


@pytest.mark.parametrize(("coding", "data"), CODED, ids=NAMES)
async def test_coded_bodies_are_decoded_for_storage_alone(
    capture: Capture, rows: Rows, coding: str, data: bytes
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read(receive) == data
        await say(send, data[:5], data[5:], headers=coded)

    coded = [(b"content-encoding", coding.encode()), (b"content-type", b"application/json")]
    middleware = capture(app)
    exchange = await Exchange(middleware, data, headers=coded).run()
    assert exchange.body == data
    row = await rows.one(middleware)
    assert (row.body, row.response_body, row.model) == (TEXT, TEXT, "gpt-test")


@pytest.mark.parametrize(("coding", "data"), CODED, ids=NAMES)
@pytest.mark.parametrize("step", [1, 7])
def test_codings_are_undone_at_any_split(coding: str, data: bytes, step: int) -> None:
    chain = decoders(coding)
    pieces = [piece for at in range(0, len(data), step) for piece in decode(chain, data[at : at + step])]
    assert b"".join(pieces).decode() == TEXT


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
async def test_a_coded_stream_is_folded(capture: Capture, rows: Rows, coding: str) -> None:
    stream = chunk("Hel") + chunk("lo") + DONE
    pack = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstd.compress, "deflate": zlib.compress}[coding]
    data = pack(stream)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, *(data[at : at + 9] for at in range(0, len(data), 9)), headers=headers)

    headers = [*SSE, (b"content-encoding", coding.encode())]
    middleware = capture(app)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert row.status == "completed"
    assert json.loads(row.response_body or "")["choices"][0]["message"]["content"] == "Hello"


def envelope(text: str | None) -> dict[str, Any]:
    inside: dict[str, Any] = json.loads(text or "")["rwriter"]
    return inside


@pytest.mark.parametrize(
    ("data", "coding"),
    [(b"\xff\xfe\x00audio", None), (b"not gzip at all", "gzip"), (TEXT.encode(), "snappy"), (b"\xfftext", "identity")],
    ids=["no text", "not what it says", "unknown coding", "no text, no coding"],
)
async def test_bytes_that_are_no_text_are_stored_whole(
    capture: Capture, rows: Rows, data: bytes, coding: str | None
) -> None:
    headers = [] if coding is None else [(b"content-encoding", coding.encode())]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await say(send, data, headers=headers)

    middleware = capture(app)
    await Exchange(middleware, data, headers=headers).run()
    row = await rows.one(middleware)
    assert row.status == "completed"
    for body in (row.body, row.response_body):
        inside = envelope(body)
        assert (inside["envelope"], inside["size"]) == ("base64", len(data))
        assert base64.b64decode(inside["data"]) == data


async def test_of_a_body_over_the_limit_size_and_head_are_stored(capture: Capture, rows: Rows) -> None:
    data = b'{"model":"m","input":"' + "ü".encode() * 100_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert len(await read(receive)) == len(data)
        await say(send, *(data[at : at + 999] for at in range(0, len(data), 999)))

    middleware = capture(app, max_body_bytes=150_000)
    exchange = await Exchange(middleware, [data[:50_000], data[50_000:]]).run()
    assert exchange.body == data
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("completed", 200)
    for body in (row.body, row.response_body):
        inside = envelope(body)
        assert (inside["envelope"], inside["size"]) == ("truncated", len(data))
        assert data.startswith(inside["head"].encode())
        assert HEAD_BYTES - 4 < len(inside["head"].encode()) <= HEAD_BYTES


async def test_a_body_of_exactly_the_limit_is_whole(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, await read(receive))

    middleware = capture(app, max_body_bytes=1_000)
    await Exchange(middleware, b"x" * 1_000).run()
    await Exchange(middleware, b"x" * 1_001).run()
    whole, cut = await rows.all(middleware)
    assert (whole.body, whole.response_body) == ("x" * 1_000, "x" * 1_000)
    assert envelope(cut.body) == envelope(cut.response_body) == {
        "envelope": "truncated", "size": 1_001, "head": "x" * 1_000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("br", brotli.compress), ("zstd", zstd.compress)]
)
def test_a_small_body_that_unfolds_to_a_large_one_is_cut_while_it_does(coding: str, pack: Any) -> None:
    bomb = pack(b"x" * 100_000_000)
    body = Body(1_000_000)
    body.feed(bomb)
    tracemalloc.start()
    try:
        inside = envelope(body.text(coding))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (inside["envelope"], inside["size"], inside["content_encoding"]) == ("truncated", len(bomb), coding)
    assert peak < 30_000_000


async def test_a_folded_answer_over_the_limit_is_cut_too(capture: Capture, rows: Rows) -> None:
    stream = [chunk("x" * 1_000) for _ in range(50)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, *stream, DONE, headers=SSE)

    middleware = capture(app, max_body_bytes=20_000)
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, envelope(row.response_body)["envelope"]) == ("completed", "truncated")
    assert envelope(row.response_body)["size"] == sum(map(len, (*stream, DONE)))


async def test_nothing_asked_and_nothing_answered_is_two_empty_bodies(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b"", status=204)

    middleware = capture(app)
    await Exchange(middleware, b"").run()
    row = await rows.one(middleware)
    assert (row.response_status, row.body, row.response_body) == (204, "", "")


@pytest.mark.parametrize("sizes", [[1], [20_000], [1, 20_000], [20_000, 3, 3], [16_384, 70_000], [100] * 7])
@pytest.mark.parametrize("limit", [1 << 20, 150_000, 90_000])
def test_a_body_is_the_same_in_pieces_of_any_size(sizes: list[int], limit: int) -> None:
    whole = "".join(str(number % 10) for number in range(200_000)).encode()
    body, at = Body(limit), 0
    for size in itertools.cycle(sizes):
        if at >= len(whole):
            break
        body.feed(whole[at : at + size])
        at += size
    assert body.ends == (whole[:HEAD_BYTES], whole[-HEAD_BYTES:])
    assert body.overflowed == (limit < len(whole))
    assert body.raw() == (whole[:HEAD_BYTES] if body.overflowed else whole)
    assert body.kept == len(body.raw()) + (HEAD_BYTES if body.overflowed else 0)
    assert body.ends == (whole[:HEAD_BYTES], whole[-HEAD_BYTES:])

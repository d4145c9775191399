"""A fold holds the result and not the stream: memory stays flat, whatever passes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from rwriter.asgi._fold.events import EventParser
from rwriter.asgi._fold.stream import StreamFold
from tests.support.folding import NAMES, body, bytewise, chunk, content, event, fold, folded, named, stream

STREAM = 50_000_000
FLAT = 2_000_000


@contextmanager
def flat(peak: int = FLAT) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()


def image(size: int) -> bytes:
    kind = "response.image_generation_call.partial_image"
    return named({"type": kind, "output_index": 0, "partial_image_b64": "A" * size})


def padded(size: int) -> bytes:
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice], "obfuscation": "x" * size})


SMALL_RESULTS = {
    "comments": (b": " + b"keep-alive " * 100 + b"\n\n") * 100,
    "chunks that say nothing": padded(100_000),
    "images on the way": image(250_000),
    "text of an unknown kind": event({"hello": "x" * 100_000}),
    "no line ever ends": b"x" * 100_000,
    "one comment without an end": b":" * 100_000,
    "data lines without a blank one": b"data: " + b"x" * 100_000 + b"\n",
    "usage that changes": padded(9_000).replace(b'"c"', b'"' + b"c" * 50_000 + b'"') + padded(50_000),
}


@pytest.mark.parametrize("piece", SMALL_RESULTS.values(), ids=SMALL_RESULTS)
def test_fifty_megabytes_pass_in_flat_memory(piece: bytes) -> None:
    made = StreamFold(max_bytes=200_000)
    with flat():
        for _ in range(STREAM // len(piece)):
            made.feed(piece)
        made.feed(b"\n\n" + chunk({"content": "end"}))
        result = made.result()
    assert len(msgspec.json.encode(result.body)) < 100_000


def test_a_result_of_many_small_pieces_takes_little_more_than_its_text() -> None:
    piece, count = chunk({"content": "tokn"}), 20_000
    made = StreamFold(max_bytes=1_000_000)
    with flat(240_000):
        for _ in range(count):
            made.feed(piece)
    assert content(body_of(made)) == "tokn" * count


def body_of(made: StreamFold) -> dict[str, object]:
    result = made.result().body
    assert result is not None
    return result


@pytest.mark.parametrize("size", [65_536, 400_000])
def test_long_lines_fed_by_single_bytes(size: int) -> None:
    text = "x" * (size - 2) + "é"
    assert content(body(*bytewise(chunk({"content": text})))) == text


def test_a_text_that_outgrows_the_limit_keeps_its_beginning_and_its_end_is_still_seen() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 500, "total_tokens": 501}
    pieces = [chunk({"content": f"{number:04} "}) for number in range(500)]
    end = [
        chunk({}, "stop"),
        event({"object": "chat.completion.chunk", "choices": [], "usage": usage}),
        event(b"[DONE]"),
    ]
    made = folded(*pieces, *end, max_bytes=1000)
    assert made.truncated
    assert made.complete
    assert made.body is not None
    assert "".join(f"{number:04} " for number in range(500)).startswith(content(made.body))
    assert len(content(made.body)) > 500
    assert made.body["usage"] == usage
    assert made.body["choices"][0]["finish_reason"] == "stop"
    assert len(msgspec.json.encode(made.body)) <= 1000


def test_after_the_first_that_does_not_fit_nothing_grows_so_that_there_are_no_holes() -> None:
    pieces = [{"annotations": [{"url": "a"}]}, {"annotations": [{"url": "x" * 900}]}, {"annotations": [{"url": "b"}]}]
    made = folded(*map(chunk, pieces), max_bytes=1000)
    assert made.truncated
    assert made.body is not None
    assert made.body["choices"][0]["message"]["annotations"] == [{"url": "a"}]


def test_of_a_piece_that_is_larger_than_the_limit_a_part_is_kept() -> None:
    made = folded(chunk({"content": "a"}), chunk({"content": "é" * 1500}), chunk({"content": "z"}), max_bytes=3000)
    assert made.truncated
    assert made.body is not None
    assert content(made.body).startswith("aéééé")
    assert "z" not in content(made.body)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [0, 100, 300, 1000, 2000])
def test_a_result_is_never_larger_than_the_limit(name: str, limit: int) -> None:
    made = folded(stream(name), max_bytes=limit)
    assert made.complete
    empty = len(b'{"object":"chat.completion","type":"message","role":"assistant","choices":[],"output":[]}')
    assert len(msgspec.json.encode(made.body)) <= limit + empty
    assert made.truncated or limit >= 500


def test_a_result_that_fits_is_not_called_truncated() -> None:
    assert not folded(chunk({"content": "x" * 850}), max_bytes=1200).truncated
    assert folded(chunk({"content": "x" * 1200}), max_bytes=1200).truncated


def test_an_event_that_is_too_large_leaves_a_gap_that_is_told() -> None:
    made = folded(chunk({"content": "a"}), chunk({"content": "x" * 9000}), chunk({"content": "b"}), max_bytes=3000)
    assert made.truncated
    assert made.body is not None
    assert content(made.body) == "a"


def created(**more: object) -> bytes:
    return named({"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": [], **more}})


def test_a_final_response_that_is_too_large_still_ends_the_stream() -> None:
    part = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0, "delta": "Hi"}
    final = {"id": "r", "status": "completed", "output": [{"text": "x" * 5000}], "usage": {"total_tokens": 5}}
    made = folded(created(), named(part), named({"type": "response.completed", "response": final}), max_bytes=3000)
    assert made.complete
    assert made.truncated
    assert made.body is not None
    assert made.body["output"][0]["content"][0]["text"] == "Hi"


def test_of_a_final_response_that_does_not_fit_how_it_ended_is_kept() -> None:
    final = {"id": "r", "status": "completed", "output": [{"text": "x" * 3000}], "usage": {"total_tokens": 5}}
    made = folded(created(usage=None), named({"type": "response.completed", "response": final}), max_bytes=3000)
    assert made.complete
    assert made.truncated
    assert made.body == {"object": "response", "id": "r", "status": "completed", "output": [], "usage": final["usage"]}


def test_a_final_response_mends_what_was_truncated_on_the_way() -> None:
    part = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0}
    deltas = [named({**part, "delta": "x" * 500, "obfuscation": "y" * 9000}) for _ in range(3)]
    final = {"id": "r", "status": "completed", "output": [{"text": "x" * 1500}]}
    made = folded(created(), *deltas, named({"type": "response.completed", "response": final}), max_bytes=3000)
    assert not made.truncated
    assert made.body == {"object": "response", **final}


def test_many_choices_and_calls_are_bounded_too() -> None:
    made = fold([], 5000)
    with flat():
        for number in range(20_000):
            made.feed(chunk({"tool_calls": [{"index": number, "id": f"c{number}"}]}, index=number))
    result = made.result()
    assert result.truncated
    assert len(msgspec.json.encode(result.body)) <= 10_000


def test_the_parser_holds_no_more_than_one_event() -> None:
    parser = EventParser(max_bytes=100_000)
    with flat(1_000_000):
        for _ in range(500):
            parser.feed(b"data: " + b"x" * 50_000 + b"\n")
    assert parser.overflowed

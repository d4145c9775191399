"""One more piece of a stream is some function calls: they are counted, as a machine's seconds vary and these do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from rwriter.asgi._fold.stream import StreamFold
from tests.fuzz.bounds import calls_of
from tests.support.folding import chunk, named

pytestmark = pytest.mark.costs

SIZE: Final = 200


def call_piece(number: int) -> bytes:
    return chunk({"tool_calls": [{"index": number % 2, "function": {"arguments": '{"a'}}]})


def thought(_number: int) -> bytes:
    detail = {"type": "reasoning.text", "text": " so", "format": "unknown", "index": 0}
    return chunk({"content": "", "reasoning": " so", "reasoning_details": [detail]})


def answer_piece(number: int) -> bytes:
    kind = "response.output_text.delta"
    return named(
        {"type": kind, "item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": number, "delta": "a"}
    )


def argument_piece(number: int) -> bytes:
    return named(
        {
            "type": "response.function_call_arguments.delta",
            "item_id": "f",
            "output_index": 0,
            "sequence_number": number,
            "delta": "1",
        }
    )


def block_piece(_number: int) -> bytes:
    return named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}})


def whole_block(number: int) -> bytes:
    start = {"type": "content_block_start", "index": number, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "content_block_delta", "index": number, "delta": {"type": "text_delta", "text": "a"}}
    return named(start) + named(delta) + named({"type": "content_block_stop", "index": number})


def whole_item(number: int) -> bytes:
    item = {"id": f"m{number}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    at = {"item_id": item["id"], "output_index": number, "content_index": 0}
    return (
        named({"type": "response.output_item.added", "output_index": number, "item": item})
        + named({"type": "response.content_part.added", **at, "part": part})
        + named({"type": "response.output_text.delta", **at, "delta": "a"})
        + named(
            {
                "type": "response.output_item.done",
                "output_index": number,
                "item": item | {"content": [part | {"text": "a"}]},
            }
        )
    )


PIECES: Final[dict[str, tuple[Callable[[int], bytes], int]]] = {
    "a word": (lambda _: chunk({"content": " word"}), 42),
    "a word of one of eight choices": (lambda number: chunk({"content": " word"}, index=number % 8), 42),
    "arguments of a call": (call_piece, 69),
    "a thought with its details": (thought, 73),
    "a word of a response": (answer_piece, 33),
    "arguments of a response": (argument_piece, 33),
    "a word of a message": (block_piece, 29),
    "a block of a message": (whole_block, 113),
    "an item of a response": (whole_item, 273),
}
"""By name: the n-th piece of its kind, and the calls it may take, Python's and C's."""


@pytest.mark.parametrize(("piece", "most"), PIECES.values(), ids=PIECES)
def test_a_piece_takes_no_more_calls_than_it_did(piece: Callable[[int], bytes], most: int) -> None:
    def calls(count: int) -> int:
        stream = b"".join(map(piece, range(count)))

        def fold() -> Any:
            made = StreamFold(max_bytes=1 << 20)
            made.feed(stream)
            return made

        fold()
        return calls_of(fold)

    each = (calls(2 * SIZE) - calls(SIZE)) / SIZE
    assert each <= most

"""Streams that nobody sends but to do harm: twice as much of one is twice the work, and memory by its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from rwriter.asgi._capture.stream import StreamedBody
from tests.fuzz.bounds import at_most_doubled, peak_of
from tests.support.folding import chunk, event, named

SIZE: Final = 300
LIMIT: Final = 1 << 22

Stream = Callable[[int], bytes]


def response(kind: str, **fields: Any) -> bytes:
    return named({"type": f"response.{kind}", **fields})


def each(piece: Callable[[int], bytes]) -> Stream:
    return lambda count: b"".join(map(piece, range(count)))


def items_then(ending: bytes) -> Stream:
    """``count`` items, then as many times the ``ending``."""

    def stream(count: int) -> bytes:
        begun = each(lambda n: response("output_item.added", output_index=n, item={"type": "message", "id": f"m{n}"}))
        return begun(count) + ending * count

    return stream


def calls_in_a_chunk(**more: Any) -> Stream:
    return lambda count: chunk({"tool_calls": [{"index": n, **more} for n in range(count)]})


def raw(text: Callable[[int], str]) -> Stream:
    return lambda count: b"data: " + text(count).encode() + b"\n\n"


STREAMS: Final[dict[str, Stream]] = {
    # endings and beginnings over and over
    "failed without an output, after items": items_then(response("failed", response={"error": {"code": "x"}})),
    "incomplete without an output, after items": items_then(response("incomplete", response={"status": "incomplete"})),
    "done with nothing at all, after items": items_then(response("done")),
    "created again after items": items_then(response("created", response={"id": "r", "output": []})),
    "an item finished under another number each time": each(
        lambda n: response("output_item.done", output_index=n * 1_000_003, item={"type": "message", "id": "same"})
    ),
    "a message begun again and again": each(
        lambda n: named({"type": "message_start", "message": {"id": f"m{n}", "usage": {"input_tokens": n}}})
    ),
    "whole blocks again and again": each(
        lambda _: named({"type": "message_stop", "message": {"content": [{"type": "text", "text": "a"}]}})
    ),
    "blocks under one number": each(
        lambda n: named(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "tool_use", "id": f"t{n}", "input": {}},
            }
        )
    ),
    # many of something in one event, or one of each in many
    "calls in one chunk with ids": calls_in_a_chunk(id="one", function={"name": "f", "arguments": "{}"}),
    "calls in one chunk with objects": calls_in_a_chunk(function={"name": "f", "arguments": {"a": 1}}),
    "calls without a number": lambda count: chunk({"tool_calls": [{"id": f"c{n}"} for n in range(count)]}),
    "calls of one number and other names": each(
        lambda n: chunk({"tool_calls": [{"index": 0, "function": {"name": f"f{n}", "arguments": "{}"}}]})
    ),
    "thoughts of other types": each(
        lambda n: chunk({"reasoning_details": [{"index": 0, "type": f"t{n}", "text": "a"}]})
    ),
    "choices far apart": each(lambda n: chunk({"content": "a"}, index=n * 999_983)),
    "numbers as texts": each(lambda n: chunk({"tool_calls": [{"index": str(n), "function": {"arguments": "1"}}]})),
    "numbers below zero": each(lambda n: chunk({"tool_calls": [{"index": -n, "function": {"arguments": "1"}}]})),
    "finish reasons of choices that never come": each(lambda n: chunk({}, "stop", index=n)),
    "members in every chunk": each(lambda n: chunk({f"member{n}": "a"})),
    "members of the chunk itself": each(
        lambda n: event({"object": "chat.completion.chunk", "choices": [], f"member{n}": [n]})
    ),
    "usage with other members": each(
        lambda n: event({"object": "chat.completion.chunk", "choices": [], "usage": {f"tokens{n}": n}})
    ),
    "the id changes": each(lambda n: event({"id": f"c{n}", "object": "chat.completion.chunk", "choices": []})),
    "annotations one by one": each(
        lambda n: response("output_text.annotation.added", output_index=0, content_index=0, annotation={"start": n})
    ),
    "parts of candidates": lambda count: event(
        {"candidates": [{"content": {"parts": [{"text": "a"}, {"functionCall": {"name": "f"}}] * (count // 2)}}]}
    ),
    # JSON that is bent
    "a member told over and over": raw(lambda count: '{"choices":[],' + '"a":1,' * count + '"a":2}'),
    "members spelled by escapes": raw(
        lambda count: '{"choices":[{"\\u0064elta":{' + '"\\u0063ontent":"a",' * count + '"x":"b"}}]}'
    ),
    "numbers of many digits": raw(lambda count: '{"choices":[],"a":' + "9" * count + "}"),
    "numbers of no size": raw(lambda count: '{"choices":[],"a":[' + "1e999," * count + "NaN]}"),
    "halves of pairs": raw(lambda count: '{"choices":[{"delta":{"content":"' + "\\ud800" * count + '"}}]}'),
    "nested": raw(lambda count: '{"choices":[{"delta":{"a":' + '{"a":' * count + "1" + "}" * (count + 3) + "]}"),
    # the frame
    "an id of the event that grows": lambda count: b"id: " + b"9" * (count * 50) + b"\n" + chunk({"content": "a"}),
    "names of events": each(lambda n: b"event: " + str(n).encode() * 20 + b"\n"),
    "lines of one event": lambda count: b"data: {\n" * count + b"\n\n",
    "empty events": lambda count: b"data:\n\n" * count,
    "blank events": lambda count: b"data:  \n\n" * count,
    "carriage returns": lambda count: b"\r" * count + chunk({"content": "a"}),
    "end markers": lambda count: chunk({"content": "a"}) + b"data: [DONE]\n\n" * count,
    "errors": each(lambda n: event({"error": {"code": 429, "message": str(n)}})),
    "lines of JSON": lambda count: b'{"message":{"content":"a"},"done":false}\n' * count,
}


def text_of(stream: bytes) -> str:
    body = StreamedBody(None, LIMIT)
    for start in range(0, len(stream), 1_000):
        body.feed(stream[start : start + 1_000])
    body.settle()
    return body.text()[0]


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_twice_the_stream_is_twice_the_work(stream: Stream) -> None:
    def work(count: int) -> Callable[[], Any]:
        made = stream(count)
        return lambda: text_of(made)

    at_most_doubled(work, SIZE)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_twice_the_stream_is_twice_the_memory(stream: Stream) -> None:
    def peak(count: int) -> int:
        made = stream(count)
        text_of(made)
        return peak_of(text_of, made)[1]

    assert peak(2 * SIZE) <= 2.5 * peak(SIZE) + 100_000

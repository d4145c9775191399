"""Entries that share a number, that have no id, or that are announced twice: none is lost and none comes twice."""

from __future__ import annotations

from typing import Any

import pytest

from rwriter.asgi._fold.stream import StreamFold
from tests.support.counting import calls_of
from tests.support.folding import body, chunk, content, event, folded, named

# -- responses


def said(kind: str, **fields: Any) -> bytes:
    return named({"type": f"response.{kind}", **fields})


def added(number: Any, item: dict[str, Any]) -> bytes:
    return said("output_item.added", output_index=number, item=item)


def done(number: Any, item: dict[str, Any]) -> bytes:
    return said("output_item.done", output_index=number, item=item)


def word(piece: str, **at: Any) -> bytes:
    return said("output_text.delta", **{"output_index": 0, "content_index": 0, **at}, delta=piece)


def message(text: str | None = None, **more: Any) -> dict[str, Any]:
    parts = [] if text is None else [{"type": "output_text", "text": text}]
    return {"type": "message", "content": parts, **more}


def called(name: str, arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, **more}


ANNOUNCED = message(id="m", role="assistant")
OUTPUTS: dict[str, tuple[list[bytes], list[dict[str, Any]]]] = {
    "one is done, another of the same number begins": (
        [
            added(0, message()),
            word("a"),
            done(0, message("a")),
            added(0, called("f")),
            said("function_call_arguments.delta", output_index=0, delta="{}"),
        ],
        [message("a"), called("f", "{}")],
    ),
    "both of one type, neither has an id": (
        [added(0, message()), word("a"), added(0, message()), word("b"), word("c")],
        [message("a"), message("bc")],
    ),
    "only their ends are told": (
        [done(0, message("a")), done(0, message("b")), done(0, message("b"))],
        [message("a"), message("b")],
    ),
    "calls are told by the id of their call": (
        [
            added(0, called("f", call_id="1")),
            added(0, called("f", call_id="2")),
            done(0, called("f", "[1]", call_id="1")),
            done(0, called("f", "[2]", call_id="2")),
        ],
        [called("f", "[1]", call_id="1"), called("f", "[2]", call_id="2")],
    ),
    "announced twice": (
        [added(0, ANNOUNCED), added(0, ANNOUNCED), word("a", item_id="m"), added(0, ANNOUNCED), word("b", item_id="m")],
        [{**message("ab"), "id": "m", "role": "assistant"}],
    ),
    "another id in each event": (
        [
            added(0, {**ANNOUNCED, "id": "x1"}),
            word("a", item_id="x2"),
            word("b", item_id="x3"),
            done(0, message("ab", id="x4")),
        ],
        [message("ab", id="x4")],
    ),
    "numbers as texts, the second first": (
        [added("1", message(id="b")), added("0", message(id="a")), word("x", output_index="1")],
        [message(id="a"), message("x", id="b")],
    ),
    "no numbers": (
        [
            said("output_item.added", item=message(id="m")),
            said("output_text.delta", item_id="m", delta="a"),
            said("output_item.added", item=called("f")),
            said("function_call_arguments.delta", delta="[]"),
        ],
        [message("a", id="m"), called("f", "[]")],
    ),
    "in a snapshot that comes twice": (
        [said("in_progress", response={"id": "r", "output": [message("a")]})] * 2,
        [message("a")],
    ),
    "in a snapshot": (
        [said("in_progress", response={"id": "r", "output": [message("a", id="m")]}), word("b", item_id="m")],
        [message("ab", id="m")],
    ),
}


@pytest.mark.parametrize(("events", "output"), OUTPUTS.values(), ids=OUTPUTS)
def test_items_of_a_response(events: list[bytes], output: list[dict[str, Any]]) -> None:
    assert body(*events)["output"] == output


def part(step: str, kind: str, text: str) -> bytes:
    key = "refusal" if kind == "refusal" else "text"
    return said(f"content_part.{step}", output_index=0, item_id="m", content_index=0, part={"type": kind, key: text})


PARTS: dict[str, tuple[list[bytes], list[str]]] = {
    "of two types": (
        [
            part("added", "output_text", ""),
            word("a", item_id="m"),
            part("done", "output_text", "a"),
            part("added", "refusal", ""),
            said("refusal.delta", output_index=0, content_index=0, item_id="m", delta="no"),
        ],
        ["a", "no"],
    ),
    "of one type": (
        [
            part("added", "output_text", ""),
            word("a", item_id="m"),
            part("done", "output_text", "a"),
            part("added", "output_text", ""),
            word("b", item_id="m"),
        ],
        ["a", "b"],
    ),
    "announced twice": (
        [part("added", "output_text", ""), part("added", "output_text", ""), word("a", item_id="m")],
        ["a"],
    ),
    "announced late": ([word("a", item_id="m"), part("added", "output_text", ""), word("b", item_id="m")], ["ab"]),
    "done twice": ([part("done", "output_text", "a"), part("done", "output_text", "a")], ["a"]),
}


@pytest.mark.parametrize(("events", "texts"), PARTS.values(), ids=PARTS)
def test_parts_of_an_item_that_share_a_number(events: list[bytes], texts: list[str]) -> None:
    parts = body(added(0, message(id="m")), *events)["output"][0]["content"]
    assert [one.get("text", one.get("refusal")) for one in parts] == texts


def test_what_a_final_response_does_not_say_was_said_before() -> None:
    counts = {"input_tokens": 9, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}
    begun = said("created", response={"id": "r", "model": "m", "output": [], "usage": counts})
    end = said("done", response={"status": "completed", "usage": {"input_tokens": 0, "output_tokens": 3}})
    made = body(begun, added(0, message("a", id="m")), end)
    assert (made["id"], made["model"], made["status"]) == ("r", "m", "completed")
    assert made["usage"] == {**counts, "output_tokens": 3}
    assert made["output"] == [message("a", id="m")]


def test_audio_of_a_response_that_is_cut_is_kept() -> None:
    pieces = [
        said("audio.transcript.delta", delta="Hel"),
        said("audio.delta", delta="AQ"),
        said("audio.transcript.delta", delta="lo"),
        said("audio.delta", delta="I="),
    ]
    (item,) = body(*pieces)["output"]
    assert item["content"] == [{"type": "output_audio", "transcript": "Hello", "data": "AQI="}]


# -- messages

EMPTY: dict[str, Any] = {"type": "text", "text": ""}


def block(number: Any, begin: dict[str, Any] | None, *deltas: dict[str, Any]) -> list[bytes]:
    at = {} if number is None else {"index": number}
    start = [] if begin is None else [{"type": "content_block_start", **at, "content_block": begin}]
    return [named(one) for one in [*start, *({"type": "content_block_delta", **at, "delta": one} for one in deltas)]]


def text(piece: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": piece}


def thought(piece: str) -> dict[str, Any]:
    return {"type": "thinking_delta", "thinking": piece}


def arguments(piece: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


def started(*blocks: dict[str, Any]) -> bytes:
    return named({"type": "message_start", "message": {"id": "m", "content": list(blocks)}})


TOOL: dict[str, Any] = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
BLOCKS: dict[str, tuple[list[bytes], list[dict[str, Any]]]] = {
    "arguments in a text": (
        block(0, EMPTY, text("a"), arguments('{"q":'), text("b"), arguments("1}")),
        [{"type": "text", "text": "ab"}, {"type": "tool_use", "input": {"q": 1}}],
    ),
    "arguments in a thought that was not announced": (
        block(0, None, thought("a"), arguments("{}")),
        [{"type": "thinking", "thinking": "a"}, {"type": "tool_use", "input": {}}],
    ),
    "a text in the result of a tool": (
        block(0, {"type": "web_search_tool_result", "content": []}, text("a")),
        [{"type": "web_search_tool_result", "content": []}, {"type": "text", "text": "a"}],
    ),
    "a server's tool takes arguments": (
        block(0, {**TOOL, "type": "server_tool_use"}, arguments('{"q":1}')),
        [{**TOOL, "type": "server_tool_use", "input": {"q": 1}}],
    ),
    "announced twice": ([*block(0, EMPTY), *block(0, EMPTY, text("a"))], [{"type": "text", "text": "a"}]),
    "a tool announced twice": (
        [*block(0, TOOL, arguments('{"q":')), *block(0, TOOL, arguments("1}"))],
        [{**TOOL, "input": {"q": 1}}],
    ),
    "announced late": ([*block(0, None, text("a")), *block(0, EMPTY, text("b"))], [{"type": "text", "text": "ab"}]),
    "numbers as texts, the second first": (
        [*block("1", EMPTY, text("b")), *block("0", EMPTY, text("a"))],
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    ),
    "a whole message after its pieces": (
        [
            *block(0, {"type": "thinking", "thinking": ""}, thought("h")),
            *block(1, EMPTY, text("a")),
            started({"type": "text", "text": "ab"}, TOOL),
        ],
        [{"type": "thinking", "thinking": "h"}, {"type": "text", "text": "ab"}, TOOL],
    ),
}


@pytest.mark.parametrize(("events", "blocks"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_of_a_message(events: list[bytes], blocks: list[dict[str, Any]]) -> None:
    assert body(*events)["content"] == blocks


# -- chat completions


def call(arguments: Any, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"function": {"arguments": arguments, **({} if name is None else {"name": name})}, **more}


CALLS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    "another name under the number, no ids": (
        [call('{"a":', "f", index=0), call("1}", index=0), call("{", "g", index=0), call("}", index=0)],
        [("f", '{"a":1}'), ("g", "{}")],
    ),
    "an object twice": ([call({"q": 1}, "f", index=0, id="a")] * 2, [("f", '{"q":1}')]),
    "another object": ([call({"q": 1}, "f", index=0), call({"q": 2}, index=0)], [("f", '{"q":2}')]),
    "an id that comes with the second piece, no number": ([call("", "f"), call("{}", id="a")], [("f", "{}")]),
}


@pytest.mark.parametrize(("pieces", "expected"), CALLS.values(), ids=CALLS)
def test_tool_calls(pieces: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    made = body(*(chunk({"tool_calls": [piece]}) for piece in pieces))["choices"][0]["message"]["tool_calls"]
    assert [(one["function"].get("name"), one["function"]["arguments"]) for one in made] == expected


def test_of_lines_that_lost_the_blank_ones_between_them_those_that_can_be_read_are_taken() -> None:
    lines = chunk({"content": "a"})[:-1] + b"data: {broken\n" + chunk({"content": "b"})
    made = body(lines)
    assert content(made) == "ab"
    assert made["rwriter"] == {"unreadable_events": 1}


# -- counts

FULL = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
ZEROS = [
    {"prompt_tokens": 0, "completion_tokens": 2},
    {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}},
    {"prompt_tokens_details": {}},
    {"prompt_tokens_details": None, "completion_tokens": None},
]


@pytest.mark.parametrize("zeros", ZEROS)
def test_zeros_and_emptiness_replace_no_count_of_any_family(zeros: dict[str, Any]) -> None:
    chat = body(chunk({"content": "a"}), event({"choices": [], "usage": FULL}), event({"choices": [], "usage": zeros}))
    messages = body(
        named({"type": "message_start", "message": {"usage": FULL}}),
        named({"type": "message_delta", "delta": {}, "usage": zeros}),
    )
    responses = body(
        said("in_progress", response={"id": "r", "usage": FULL}),
        said("completed", response={"id": "r", "output": [], "usage": zeros}),
    )
    assert chat["usage"] == messages["usage"] == responses["usage"] == FULL


def test_counts_grow() -> None:
    more = {"prompt_tokens": 5, "completion_tokens": 70_000, "prompt_tokens_details": {"cached_tokens": 5, "new": 1}}
    made = body(chunk({"content": "a"}), event({"choices": [], "usage": FULL}), event({"choices": [], "usage": more}))
    assert made["usage"] == more


def test_counts_that_do_not_fit_are_left_out() -> None:
    usage = {"notes": {"text": "x" * 5_000}, "prompt_tokens": 7}
    made = folded(chunk({"content": "a"}), event({"choices": [], "usage": usage}), max_bytes=6_000)
    assert made.body is not None
    assert made.body["usage"]["prompt_tokens"] == 7
    cut = folded(chunk({"content": "a"}), event({"choices": [], "usage": usage}), max_bytes=5_050)
    assert cut.truncated
    assert cut.body is not None
    assert cut.body["usage"] == {"notes": {}, "prompt_tokens": 7}


# -- cost


def named_in_each_chunk(number: int) -> list[bytes]:
    return [chunk({"tool_calls": [{"index": 0, "function": {"name": "n" * 50}}]})] * number


def new_id_in_each_event(number: int) -> list[bytes]:
    return [added(0, message(id="m")), *(word("a", item_id=f"x{at}") for at in range(number))]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: [*(one for _ in range(n) for one in (added(0, message()), done(0, message("a"))))],
        lambda n: [*(one for _ in range(n) for one in (part("added", "refusal", ""), part("done", "refusal", "a")))],
        new_id_in_each_event,
        named_in_each_chunk,
        lambda n: [started(*[EMPTY] * n), started(*[EMPTY, TOOL] * (n // 2))],
        lambda n: [*(one for at in range(n) for one in block(0, EMPTY, arguments(str(at)), thought("a")))],
    ],
    ids=["items", "parts", "ids made anew", "names", "whole messages", "strays"],
)
async def test_the_work_grows_with_the_stream(make: Any) -> None:
    counted = []
    for number in (10, 400, 800):
        pieces = make(number)

        async def work(pieces: list[bytes] = pieces) -> None:
            body(*pieces)

        counted.append(await calls_of(work))
    assert counted[2] / counted[1] < 2.3


def test_ids_made_anew_for_each_event_are_not_remembered() -> None:
    made = StreamFold(max_bytes=1 << 20)
    for one in new_id_in_each_event(500):
        made.feed(one)
    result = made.result().body
    assert result is not None
    assert [one["content"][0]["text"] for one in result["output"]] == ["a" * 500]

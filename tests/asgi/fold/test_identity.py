"""An entry of a stream is told by what it is, its id and its type, where its number says something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.counting import calls_of
from tests.support.folding import body, chunk, content, event, folded, named

# -- chat completions


def call(arguments: Any, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"function": {"arguments": arguments, **({} if name is None else {"name": name})}, **more}


def calls(*pieces: dict[str, Any]) -> list[tuple[Any, str]]:
    made = body(*(chunk({"tool_calls": [piece]}) for piece in pieces))["choices"][0]["message"]["tool_calls"]
    return [(one["function"].get("name"), one["function"]["arguments"]) for one in made]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            [call("{", "find", index="0"), call("[", "get", index="1"), call("}", index="0")],
            [("find", "{}"), ("get", "[")],
        ),
        ([call("", "read_", index=0), call("", "file", index=0), call("{}", index=0)], [("read_file", "{}")]),
        ([call("", "read", index=0), call("{", "read", index=0), call("}", "read", index=0)], [("read", "{}")]),
        ([call("{}", "one"), call("[]", "two")], [("one", "{}"), ("two", "[]")]),
        ([call("", "half"), call("", "way"), call("{}")], [("halfway", "{}")]),
        ([call({"q": 1}, "find", index=0)], [("find", '{"q":1}')]),
    ],
    ids=[
        "numbers as texts",
        "a name in pieces",
        "a name repeated",
        "no number, no id",
        "a name in pieces alone",
        "an object",
    ],
)
def test_a_piece_of_a_tool_call_finds_its_call(pieces: list[dict[str, Any]], expected: list[Any]) -> None:
    assert calls(*pieces) == expected


def test_reasoning_details_under_one_number_stay_apart() -> None:
    details = [
        {"type": "summary", "summary": "a", "index": 0},
        {"type": "encrypted", "data": "x", "index": 0},
        {"type": "summary", "summary": "b", "index": 0},
    ]
    made = body(*(chunk({"reasoning_details": [one]}) for one in details))
    assert made["choices"][0]["message"]["reasoning_details"] == [
        {"type": "summary", "summary": "ab", "index": 0},
        {"type": "encrypted", "data": "x", "index": 0},
    ]


def test_a_whole_message_at_the_end_is_not_added_to_its_pieces() -> None:
    message = {"role": "assistant", "content": "Good day."}
    last = event({"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    assert content(body(chunk({"content": "Good "}), chunk({"content": "day."}), last)) == "Good day."


def test_audio_in_pieces_that_were_padded_each_is_one_piece_of_base64() -> None:
    made = body(chunk({"audio": {"id": "a", "data": "AQI="}}), chunk({"audio": {"data": "AwQ="}}))
    assert made["choices"][0]["message"]["audio"]["data"] == "AQIDBA=="


@pytest.mark.parametrize("last", [{}, {"prompt_tokens": 0, "completion_tokens": 0}, None])
def test_an_empty_usage_replaces_none(last: Any) -> None:
    counts = {"prompt_tokens": 5, "completion_tokens": 2}
    made = body(chunk({"content": "a"}), event({"choices": [], "usage": counts}), event({"choices": [], "usage": last}))
    assert made["usage"] == counts


@pytest.mark.parametrize("where", ["x_groq", "choice"])
def test_usage_is_lifted_from_where_it_stands(where: str) -> None:
    counts = {"prompt_tokens": 5, "completion_tokens": 2}
    choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    last: dict[str, Any] = {"choices": [choice]}
    if where == "choice":
        choice["usage"] = counts
    else:
        last["x_groq"] = {"id": "req", "usage": counts}
    assert body(chunk({"content": "a"}), event(last))["usage"] == counts


def test_a_zero_replaces_no_time() -> None:
    made = body(
        event({"created": 7, "choices": [{"index": 0, "delta": {"content": "a"}}]}),
        event({"created": 0, "choices": []}),
    )
    assert made["created"] == 7


# -- messages


def block(index: int | None, begin: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    numbered = {} if index is None else {"index": index}
    events = [{"type": "content_block_start", **numbered, "content_block": begin}]
    events += [{"type": "content_block_delta", **numbered, "delta": delta} for delta in deltas]
    return list(map(named, events))


def text(piece: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": piece}


EMPTY = {"type": "text", "text": ""}


def test_blocks_that_share_a_number_do_not_replace_one_another() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    json_delta = {"type": "input_json_delta", "partial_json": '{"a":1}'}
    made = body(*block(0, EMPTY, text("one")), *block(0, tool, json_delta), *block(0, EMPTY, text("two")))
    assert made["content"] == [
        {"type": "text", "text": "one"},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}},
        {"type": "text", "text": "two"},
    ]


def test_events_without_a_number_belong_to_the_block_that_is_open() -> None:
    made = body(*block(None, EMPTY, text("a"), text("b")), *block(None, EMPTY, text("c")))
    assert [one["text"] for one in made["content"]] == ["ab", "c"]


def test_a_thought_in_a_text_is_a_block_of_its_own() -> None:
    thought = {"type": "thinking_delta", "thinking": "T"}
    made = body(*block(0, EMPTY, text("a"), thought, text("b"), thought))
    assert made["content"] == [{"type": "text", "text": "ab"}, {"type": "thinking", "thinking": "TT"}]


def test_zeros_replace_no_count_of_a_message() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 4}}}
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"input_tokens": 0, "output_tokens": 3},
    }
    made = folded(named(start), named(end))
    assert made.complete
    assert made.body is not None
    assert made.body["usage"] == {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 3}


# -- responses


def item(identity: str, index: int, piece: str) -> list[bytes]:
    message = {"id": identity, "type": "message", "role": "assistant", "content": []}
    delta = {"item_id": identity, "output_index": index, "content_index": 0, "delta": piece}
    return [
        named({"type": "response.output_item.added", "output_index": index, "item": message}),
        named({"type": "response.output_text.delta", **delta}),
    ]


def test_items_that_share_a_number_are_told_by_their_ids() -> None:
    more = {"type": "response.output_text.delta", "item_id": "one", "output_index": 0, "content_index": 0, "delta": "!"}
    made = body(*item("one", 0, "a"), *item("two", 0, "b"), named(more))
    assert [(one["id"], one["content"][0]["text"]) for one in made["output"]] == [("one", "a!"), ("two", "b")]


def test_a_text_under_the_number_of_a_reasoning_is_a_message() -> None:
    thought = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "T"}
    said = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "m", "delta": "S"}
    made = body(named(thought), named(said))
    assert [one["type"] for one in made["output"]] == ["reasoning", "message"]
    assert made["output"][1]["content"][0]["text"] == "S"


def test_done_is_an_end_and_an_error_event_is_an_error() -> None:
    final = {"id": "r", "status": "completed", "output": []}
    assert folded(named({"type": "response.done", "response": final})).complete
    error = {"type": "response.error", "error": {"code": "rate_limit_exceeded", "message": "slow down"}}
    made = folded(named({"type": "response.created", "response": {"id": "r"}}), named(error))
    assert made.error is not None
    assert (made.error.status, made.error.message) == (429, "slow down")


# -- lines of JSON


def line(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode() + b"\n"


def test_lines_of_json_are_an_answer_in_pieces() -> None:
    pieces = [line(message={"role": "assistant", "content": piece}, done=False) for piece in ("Good ", "day")]
    cut = folded(*pieces)
    assert not cut.complete
    made = folded(*pieces, line(message={"role": "assistant", "content": "."}, done=True, eval_count=3))
    assert made.complete
    assert made.body == {
        "model": "m", "message": {"role": "assistant", "content": "Good day."}, "done": True, "eval_count": 3,
    }  # fmt: skip
    failed = folded(*pieces, b'{"error":"the runner ended"}\n')
    assert failed.error is not None
    assert failed.error.message == "the runner ended"


# -- cost


async def doubling(make: Any) -> float:
    """Return how much the work grows, in calls, when the input doubles."""
    counted = []
    for number in (10, 400, 800):
        pieces = make(number)

        async def work(pieces: Any = pieces) -> None:
            body(*pieces)

        counted.append(await calls_of(work))
    return counted[2] / counted[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: [chunk({"tool_calls": [{"index": i} for i in range(n)]})],
        lambda n: [chunk({"tool_calls": [{"id": f"c{i}", "function": {"name": "f"}} for i in range(n)]})],
        lambda n: [chunk({"reasoning_details": [{"index": 0, "type": f"t{i}"} for i in range(n)]})],
        lambda n: [*(b for i in range(n) for b in item(f"i{i}", 0, "x"))],
        lambda n: [*item("i", 0, "x"), *[named({"type": "response.completed", "response": {"id": "r"}})] * n],
        lambda n: [*(b for _ in range(n) for b in block(0, EMPTY, text("x")))],
    ],
    ids=["calls", "calls without numbers", "details", "items under one number", "endings", "blocks under one number"],
)
async def test_the_work_grows_with_the_stream(make: Any) -> None:
    assert await doubling(make) < 2.3

"""An event tells the kind of its stream, also in the streams of odd upstreams."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.folding import body, chunk, content, event, fold, folded, named

KNOWN = {
    "a chunk": chunk({"content": "x"}),
    "a chunk without a word": event({"id": "", "object": "", "choices": []}),
    "a completion": event({"object": "text_completion", "choices": [{"index": 0, "text": "x"}]}),
    "a response event": named({"type": "response.created", "response": {"id": "r"}}),
    "a response event named by its name": event({"response": {"id": "r"}}, "response.created"),
    "a message event": named({"type": "message_start", "message": {"id": "m"}}),
    "a message event named by its name": event({"message": {"id": "m"}}, "message_start"),
}
STRANGE = {
    "words": event(b"hello"),
    "no object": event([1, 2]),
    "another object": event({"type": "thread.run.created", "id": "run_1"}),
    "invalid JSON": event(b'{"choices": [}'),
    "odd fields": event({"type": ["response."], "choices": 1, "object": {}}),
    "nothing": event(b""),
}


@pytest.mark.parametrize("data", KNOWN.values(), ids=KNOWN)
def test_a_known_kind_is_known_by_its_first_event(data: bytes) -> None:
    assert not fold([data]).unknown
    assert not fold([*STRANGE.values(), data]).unknown
    assert folded(data).body is not None


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_an_event_of_no_known_kind_is_told(data: bytes) -> None:
    made = fold([data])
    assert made.unknown
    assert not made.ended
    assert made.result().body is None


def test_nothing_and_comments_are_not_unknown() -> None:
    assert not fold([b"", b": ping\n\n", b"\n\n"]).unknown


def test_a_stream_of_no_known_kind_ends_with_done() -> None:
    made = fold([event(b"hello"), event(b"[DONE]")])
    assert made.unknown
    assert made.ended
    assert made.result().complete


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_an_event_that_makes_no_sense_changes_nothing(data: bytes) -> None:
    for begin in (*list(KNOWN.values())[:1], *list(KNOWN.values())[2:]):
        made = body(begin, data)
        assert made.pop("rwriter", {"unreadable_events": 1}) == {"unreadable_events": 1}
        assert made == body(begin)


@pytest.mark.parametrize("data", [b"{", b"hello", b'{"choices": [{"delta', b"5"])
def test_each_event_that_cannot_be_read_is_counted(data: bytes) -> None:
    made = body(chunk({"content": "a"}), event(data), chunk({"content": "b"}), event(data), event(b""))
    assert content(made) == "ab"
    assert made["rwriter"] == {"unreadable_events": 2}


def test_events_that_lost_the_blank_line_between_them_are_read_one_by_one() -> None:
    one, another = chunk({"content": "a"}), chunk({"content": "b"})
    made = body(one.removesuffix(b"\n") + another, chunk({"content": "c"}))
    assert content(made) == "abc"
    assert "rwriter" not in made


def test_a_line_of_json_without_a_field_is_an_event() -> None:
    made = folded(chunk({"content": "a"}), b'{"error": {"message": "refused", "code": 403}}\n')
    assert made.error is not None
    assert (made.error.status, made.error.message) == (403, "refused")
    cut = folded(chunk({"content": "a"}), b'{"error": {"message": "refused", "code": 403}}')
    assert cut.body is not None
    assert content(cut.body) == "a"


ODD: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "a list of parts": (
        [{"content": [{"type": "thinking", "thinking": "h"}]}, {"content": [{"type": "text", "text": "a"}]}],
        [{"type": "thinking", "thinking": "h"}, {"type": "text", "text": "a"}],
    ),
    "parts, then text": (
        [{"content": [{"type": "thinking", "thinking": "h"}]}, {"content": "a"}],
        [{"type": "thinking", "thinking": "h"}, {"type": "text", "text": "a"}],
    ),
    "text, then parts": (
        [{"content": "a"}, {"content": [{"type": "image", "url": "u"}]}],
        [{"type": "text", "text": "a"}, {"type": "image", "url": "u"}],
    ),
    "null between": ([{"content": None}, {"content": "a"}, {"content": None}, {"content": "b"}], "ab"),
    "nothing": ([{"role": "assistant"}], None),
    "an empty text": ([{"role": "assistant", "content": ""}], ""),
    "an empty list of calls": ([{"content": "", "tool_calls": []}], ""),
}


@pytest.mark.parametrize(("deltas", "expected"), ODD.values(), ids=ODD)
def test_the_content_of_a_message(deltas: list[dict[str, Any]], expected: Any) -> None:
    assert content(body(*map(chunk, deltas))) == expected


def test_a_refusal_that_says_nothing_is_none() -> None:
    assert body(chunk({"content": "a", "refusal": ""}))["choices"][0]["message"]["refusal"] is None


def block(begin: dict[str, Any], *deltas: dict[str, Any]) -> Any:
    events = [{"type": "content_block_start", "index": 0, "content_block": begin}]
    events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    return body(*map(named, events))["content"][0]


def test_a_signature_replaces_the_one_before() -> None:
    begin = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [{"type": "signature_delta", "signature": text} for text in ("one", "two")]
    assert block(begin, *deltas) == {**begin, "signature": "two"}


def test_the_input_of_a_tool_may_come_whole_with_its_block() -> None:
    begin = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    assert block(begin, {"type": "input_json_delta", "partial_json": ""}) == begin


def calls(*pieces: dict[str, Any]) -> list[Any]:
    made = body(*(chunk({"tool_calls": [piece]}) for piece in pieces))["choices"][0]["message"]["tool_calls"]
    return [(call.get("id"), call["function"].get("name"), call["function"]["arguments"]) for call in made]


def piece(arguments: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"function": {"arguments": arguments, **({} if name is None else {"name": name})}, **more}


CALLS = {
    "numbered out of order": (
        [piece("b", "g", index=1, id="2"), piece("a", "f", index=0, id="1"), piece("c", index=1)],
        [("1", "f", "a"), ("2", "g", "bc")],
    ),
    "no numbers": (
        [piece("a", "f", id="1"), piece("b"), piece("c", "g", id="2"), piece("d", id="1"), piece("e")],
        [("1", "f", "abd"), ("2", "g", "ce")],
    ),
    "another id in each chunk": ([piece("a", "f", index=0, id="1"), piece("b", index=0, id="9")], [("1", "f", "ab")]),
    "each under number 0": (
        [piece("a", "f", index=0, id="1"), piece("b", "g", index=0, id="2"), piece("c", index=0, id="2")],
        [("1", "f", "a"), ("2", "g", "bc")],
    ),
    "an empty name and id first": (
        [piece("a", "", index=0, id=""), piece("b", "f", index=0, id="1"), piece("c", "", index=0, id=None)],
        [("1", "f", "abc")],
    ),
}


@pytest.mark.parametrize(("pieces", "expected"), CALLS.values(), ids=CALLS)
def test_pieces_of_tool_calls_find_their_call(pieces: list[dict[str, Any]], expected: list[Any]) -> None:
    assert calls(*pieces) == expected


def test_a_whole_completion_as_the_only_event_is_taken() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "choices": [choice]}
    assert body(event(whole), event(b"[DONE]")) == whole


def test_a_message_that_repeats_its_deltas_is_not_doubled() -> None:
    choice = {"index": 0, "delta": {"content": "b"}, "message": {"role": "assistant", "content": "ab"}}
    made = body(chunk({"content": "a"}), event({"object": "chat.completion.chunk", "choices": [choice]}))
    assert content(made) == "ab"


LENIENT = {
    "NaN": (b'{"choices":[{"delta":{"content":"a"},"score":NaN}]}', "a"),
    "half a surrogate pair": (b'{"choices":[{"delta":{"content":"a\\ud83d!"}}]}', "a\ufffd!"),
    "no UTF-8": (b'{"choices":[{"delta":{"content":"a\xff!"}}]}', "a\ufffd!"),
    "a raw control character": (b'{"choices":[{"delta":{"content":"a\x01!"}}]}', "a\x01!"),
}


@pytest.mark.parametrize(("data", "text"), LENIENT.values(), ids=LENIENT)
def test_what_a_lenient_client_reads_is_read(data: bytes, text: str) -> None:
    assert content(body(event(data))) == text


def test_results_share_nothing() -> None:
    made = fold([chunk({"content": "a", "annotations": [{"url": "u"}]})])
    first, second = made.result().body, made.result().body
    assert first is not None
    first["choices"][0]["message"]["annotations"][0]["url"] = "other"
    assert second == made.result().body != first

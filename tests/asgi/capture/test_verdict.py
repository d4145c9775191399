"""An answer is judged by what it says, not by its HTTP status or content type."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rwriter.asgi._types import Receive, Scope, Send
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import SSE, Exchange, begin, chunk, part, read

JSON: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]

TOLD: dict[str, tuple[Any, int]] = {
    "an error": ({"error": {"code": 429, "message": "slow down"}}, 429),
    "a number as a text": ({"error": {"code": "503", "message": "busy"}}, 503),
    "a word": ({"error": {"type": "authentication_error", "message": "who?"}}, 401),
    "a text": ({"error": "it broke"}, 500),
    "choices of null": ({"choices": None, "error": {"message": "no capacity", "code": 529}}, 529),
    "an error of a choice": ({"choices": [{"index": 0, "error": {"code": 502, "message": "lost"}}]}, 502),
    "a finish reason": ({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "error"}]}, 500),
    "a message's": ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, 529),
    "a response's": (
        {"object": "response", "status": "failed", "error": {"code": "server_error", "message": "x"}},
        500,
    ),
    "no envelope": ({"object": "error", "message": "too long", "code": 400}, 400),
    "a list": ([{"error": {"code": 400, "message": "bad"}}], 400),
}
ANSWERS: dict[str, Any] = {
    "an empty error": {"id": "a", "error": {"code": "", "message": ""}, "choices": []},
    "an error of null": {"object": "response", "status": "completed", "error": None},
    "the word in a text": {"choices": [{"message": {"content": 'the "error" was mine'}, "finish_reason": "stop"}]},
    "an incomplete response": {"object": "response", "status": "incomplete"},
}


def answering(pieces: list[bytes], headers: list[tuple[bytes, bytes]]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await begin(send, headers=headers)
        for piece in pieces:
            await part(send, piece)
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize(("said", "status"), TOLD.values(), ids=TOLD)
async def test_an_error_told_in_a_200_is_a_failed_row(capture: Capture, rows: Rows, said: Any, status: int) -> None:
    middleware = capture(answering([json.dumps(said).encode()], JSON))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", status)
    assert row.response_body is not None


@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_none(capture: Capture, rows: Rows, said: Any) -> None:
    middleware = capture(answering([json.dumps(said).encode()], JSON))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status, row.response_body) == ("completed", 200, json.dumps(said))


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b""])
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_is_known_by_its_bytes(capture: Capture, rows: Rows, content_type: bytes, size: int) -> None:
    data = chunk("Hel") + chunk("lo")
    headers = [(b"content-type", content_type)] if content_type else []
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    middleware = capture(answering(pieces, headers))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    # cut, and folded as far as it came
    assert (row.status, row.response_status) == ("failed", 502)
    assert json.loads(row.response_body or "")["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize("said", [b"", b": ping\n\n: ping\n\n"])
async def test_a_stream_without_an_event_is_truncated(capture: Capture, rows: Rows, said: bytes) -> None:
    middleware = capture(answering([said] if said else [], SSE))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 502)


@pytest.mark.parametrize("said", [{"error": {"code": 401, "message": "who?"}}, [{"error": {"code": 401}}]])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["", "\n"])
async def test_json_in_place_of_a_stream_is_judged_as_json(
    capture: Capture, rows: Rows, said: Any, indent: int | None, end: str
) -> None:
    middleware = capture(answering([(json.dumps(said, indent=indent) + end).encode()], SSE))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 401)


async def test_the_last_line_of_a_stream_needs_no_newline(capture: Capture, rows: Rows) -> None:
    middleware = capture(answering([chunk("a"), b'{"error": {"code": 403, "message": "refused"}}'], SSE))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == ("failed", 403)
    assert json.loads(row.response_body or "")["choices"][0]["message"]["content"] == "a"


def piece(text: str, **more: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, **more}],
        "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": len(text)},
        "responseId": "r-1",
    }


ARRAY = json.dumps([piece("Hel"), piece("lo", finishReason="STOP")], indent=2)
ARRAYS = {
    "whole": (ARRAY, 200),
    "compact": (json.dumps([piece("Hel"), piece("lo")]).replace("}, {", "}\n,\r\n{"), 200),
    "cut in the second piece": (ARRAY[: ARRAY.index('"lo"')], 502),
    "cut behind the first": (ARRAY[: ARRAY.index('"r-1"') + 10], 502),
    "cut behind the last": (ARRAY[:-2], 200),
    "an error at the end": (json.dumps([piece("Hel"), {"error": {"code": 503, "message": "overloaded"}}]), 503),
}


@pytest.mark.parametrize(("said", "status"), ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("size", [7, 10_000])
async def test_an_array_of_pieces_is_folded(capture: Capture, rows: Rows, said: str, status: int, size: int) -> None:
    pieces = [said.encode()[at : at + size] for at in range(0, len(said), size)]
    middleware = capture(answering(pieces, JSON))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert row.response_status == status
    (candidate,) = json.loads(row.response_body or "")["candidates"]
    expected = "Hello" if status == 200 else "Hel"
    assert candidate["content"] == {"parts": [{"text": expected}], "role": "model"}
    assert row.input_tokens == 4


@pytest.mark.parametrize(
    "said", ["[1, 2]", '[{"a": 1}, {"b": 2}]', '[{"a": 1}', "[", '{"a": 1}\n', '[{"candidates": 1}]']
)
async def test_another_array_is_stored_as_it_came(capture: Capture, rows: Rows, said: str) -> None:
    middleware = capture(answering([said.encode()], JSON))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_body) == ("completed", said)


@pytest.mark.parametrize("headers", [JSON, [(b"content-type", b"application/x-ndjson")]], ids=["json", "ndjson"])
@pytest.mark.parametrize("ends", [True, False])
async def test_lines_of_json_are_folded(
    capture: Capture, rows: Rows, headers: list[tuple[bytes, bytes]], ends: bool
) -> None:
    lines = [{"message": {"role": "assistant", "content": piece}, "done": False} for piece in ("a", "b")]
    lines += [{"message": {"role": "assistant", "content": "c"}, "done": True}] if ends else []
    said = [json.dumps(one).encode() + b"\n" for one in lines]
    middleware = capture(answering([*said[:-1], said[-1][:-1]], headers))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == (("completed", 200) if ends else ("failed", 502))
    assert json.loads(row.response_body or "")["message"]["content"] == ("abc" if ends else "ab")


@pytest.mark.parametrize("ends", [True, False])
async def test_a_large_event_is_folded_when_the_call_has_ended(capture: Capture, rows: Rows, ends: bool) -> None:
    data = chunk("x" * 300_000) + (chunk("y", finish_reason="stop") if ends else b"")
    middleware = capture(answering([data], SSE))
    await Exchange(middleware).run()
    row = await rows.one(middleware)
    assert (row.status, row.response_status) == (("completed", 200) if ends else ("failed", 502))
    assert len(json.loads(row.response_body or "")["choices"][0]["message"]["content"]) == 300_000 + ends

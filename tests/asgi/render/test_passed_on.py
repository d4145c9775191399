"""Large members of an answer are passed on as they are written, and say what they would if they were read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwriter.asgi import _json
from rwriter.asgi._render.response import encoded_response, response_object
from rwriter.store import detail_of
from tests.support.counting import Calls
from tests.support.reading import chat_record, response_body, response_record
from tests.support.records import record

MANY: list[Any] = [{"a": [1, None, 'NaN Infinity \\ " é']}] * 5_000
MESSAGE = {"type": "message", "content": [{"type": "text", "text": "a"}] * 5_000}
CHOICE = {"message": {"content": "a" * 100_000, "tool_calls": [{"function": {"name": "f"}}] * 5_000}}
LARGE: dict[str, Any] = {
    "a response": response_body(output=MANY, kept=MANY),
    "one that says nothing of its kind": {"output": MANY},
    "one whose output is no list": response_body(output={"a": MANY}),
    "one that its upstream failed": response_body(status="failed", error={"message": "x", "code": "y"}, kept=MANY),
    "one over the limit": {"object": "response", "rwriter": {"envelope": "truncated", "head": "x" * 100_000}},
    "a chat": {"object": "chat.completion", "choices": [CHOICE], "kept": MANY},
    "one that says nothing of being a chat": {"choices": [CHOICE]},
    "a message": MESSAGE,
    "embeddings": {"object": "list", "data": MANY, "usage": {"prompt_tokens": 3}},
    "a list": MANY,
    "a text": "x" * 100_000,
    "a usage without end": {"object": "response", "usage": {"input_tokens": 3, "rest": MANY}},
}


def _told(text: str, **changes: Any) -> tuple[Any, Any]:
    detail = detail_of(response_record(text, **changes))
    return json.loads(encoded_response(detail, "resp_x")), json.loads(_json.dumps(response_object(detail, "resp_x")))


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("status_code", [200, 500])
def test_what_is_passed_on_is_what_would_be_read(body: Any, status_code: int) -> None:
    text = json.dumps(body, ensure_ascii=False)
    for stored in (text, "\ufeff" + text, " \n" + text):
        passed_on, read = _told(stored, status_code=status_code)
        assert passed_on == read


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_no_json_is_null_and_nothing_else_changes(constant: str) -> None:
    text = json.dumps(response_body(output=MANY, kept=0)).replace('"kept": 0', f'"kept": [{constant}, "NaN"]')
    passed_on, read = _told(text)
    assert passed_on == read
    assert passed_on["kept"] == [None, "NaN"]


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "{" + "x" * 100_000, '{"a":[' + "[" * 100_000, '{"a":"' + "x" * 100_000]
)
def test_what_is_no_json_is_shown_as_it_is(text: str) -> None:
    passed_on, read = _told(text)
    assert passed_on == read
    assert passed_on["rwriter"]["body"] == text


@given(st.recursive(st.none() | st.text() | st.sampled_from(["NaN", "-Infinity", '"NaN', "\\"]), st.lists))
def test_mending_changes_no_json(value: Any) -> None:
    text = json.dumps({"NaN": value, "Infinity": [value]}, ensure_ascii=False)
    assert _json.mended(text) == text


@pytest.mark.parametrize(
    "make",
    [
        lambda n: response_record(response_body(output=[{}] * n)),
        lambda n: response_record(response_body(kept=[[]] * n)),
        lambda n: record(endpoint="/v1/embeddings", response_body=json.dumps({"data": [0.5] * n})),
        lambda n: chat_record({"content": "a"}, response_body=json.dumps({"choices": [], "kept": [[]] * n})),
    ],
)
def test_what_is_passed_on_costs_no_calls(make: Any) -> None:
    numbers = []
    for size in (50_000, 100_000):
        detail = detail_of(make(size))
        calls = Calls()
        with calls.counted():
            encoded_response(detail, "resp_x")
        numbers.append(calls.number)
    assert numbers[0] == numbers[1]

"""Twice the input is at most twice the work, whatever it is made of: calls and bytes are counted, not seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rwriter.asgi import _json
from rwriter.asgi._render.events import closing_events, frame, opening_events
from rwriter.asgi._render.input import InputItems
from rwriter.asgi._render.response import response_object
from rwriter.store import RequestDetail, detail_of
from tests.fuzz.bounds import peak_of
from tests.support.counting import Calls
from tests.support.reading import chat_record, response_body, response_record
from tests.support.records import record

SIZE = 2_000
SLACK = 200
"""Calls that do not depend on the size."""


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _message(content: list[Any]) -> RequestDetail:
    body = {"type": "message", "role": "assistant", "content": content, "stop_reason": "end_turn"}
    return detail_of(record(endpoint="/v1/messages", response_body=json.dumps(body)))


def _chat(message: dict[str, Any]) -> RequestDetail:
    return detail_of(chat_record(message))


def _stored(output: list[Any]) -> RequestDetail:
    return detail_of(response_record(response_body(output=output)))


def _call(number: int) -> dict[str, Any]:
    return {"id": f"call_{number}", "function": {"name": "f", "arguments": "{}"}}


MANY: dict[str, Callable[[int], RequestDetail]] = {
    "texts of one message": lambda n: _message([_text("a")] * n),
    "texts and thoughts in turn": lambda n: _message([_text("a"), {"type": "thinking", "thinking": "b"}] * (n // 2)),
    "blocks of no known kind": lambda n: _message([{"type": "new"}] * n),
    "tool calls": lambda n: _chat({"content": None, "tool_calls": [_call(number) for number in range(n)]}),
    "parts of a message": lambda n: _chat({"content": [_text("a")] * n}),
    "empty items": lambda n: _stored([{}] * n),
    "messages": lambda n: _stored([{"type": "message", "id": "m", "content": [_text("a")]}] * n),
    "summaries of one thought": lambda n: _stored([{"type": "reasoning", "id": "r", "summary": [_text("a")] * n}]),
    "annotations": lambda n: _stored(
        [{"type": "message", "content": [{"type": "output_text", "annotations": [{}] * n}]}]
    ),
    "tools": lambda n: detail_of(response_record(request_body=json.dumps({"tools": [{"function": {}}] * n}))),
}


def _work(function: Callable[[], Any]) -> int:
    calls = Calls()
    with calls.counted():
        function()
    return calls.number


def _at_most_doubled(work: Callable[[int], int]) -> None:
    once, twice = work(SIZE), work(2 * SIZE)
    assert twice <= 2 * once + SLACK


@pytest.mark.parametrize("make", MANY.values(), ids=MANY)
def test_a_response_costs_as_much_as_it_holds(make: Callable[[int], RequestDetail]) -> None:
    def work(size: int) -> int:
        detail = make(size)
        return _work(lambda: _json.dumps(response_object(detail)))

    _at_most_doubled(work)


@pytest.mark.parametrize("make", MANY.values(), ids=MANY)
def test_a_replay_costs_as_much_as_it_holds(make: Callable[[int], RequestDetail]) -> None:
    sizes = []

    def work(size: int) -> int:
        response = response_object(make(size))
        calls = Calls()
        with calls.counted():
            sizes.append(sum(len(frame(event)) for event in [*opening_events(response), *closing_events(response)]))
        return calls.number

    _at_most_doubled(work)
    assert sizes[1] <= 2.1 * sizes[0] + 1_000


def _of_items(item: str, size: int) -> RequestDetail:
    return detail_of(response_record(request_body='{"input":[' + ",".join([item] * size) + "]}"))


@pytest.mark.parametrize("item", ['"a"', '{"role":"user","content":"a"}', '{"id":"x"}'])
def test_the_first_page_costs_the_same_whatever_comes_behind_it(item: str) -> None:
    def work(size: int) -> int:
        items = InputItems(_of_items(item, size))
        calls = Calls()
        with calls.counted():
            found = items.page(limit=3, ascending=True, after=None)
        assert found is not None
        assert (len(found[0]), found[1]) == (3, True)
        return calls.number

    few, many = work(100_000), work(200_000)
    assert many <= few + SLACK


@pytest.mark.parametrize("after", [None, "x", "msg_in_none"])
def test_a_page_holds_no_more_of_a_large_body_than_its_text(after: str | None) -> None:
    detail = _of_items('"a"', 500_000)

    def work() -> object:
        return InputItems(detail).page(limit=1, ascending=False, after=after)

    _, peak = peak_of(work)
    # one copy of two megabytes and a slice; each item as an object of its own would be 50 MB
    assert peak <= len(detail.body) + 5_000_000


@pytest.mark.parametrize(
    "item", ['"a"', "{}", '{"role":"user","content":"x"}', '{"id":"one"}', '{"id":["a"]}', "[]", "1"]
)
@pytest.mark.parametrize("ascending", [True, False])
def test_a_page_of_the_input_renders_the_items_of_the_page(item: str, ascending: bool) -> None:
    rendered = []

    def work(size: int) -> int:
        detail = detail_of(response_record(request_body='{"input":[' + ",".join([item] * size) + "]}"))
        calls = Calls()
        with calls.counted():
            page = InputItems(detail).page(limit=3, ascending=ascending, after=None)
        assert page is not None
        rendered.append(len(page[0]))
        return calls.number

    _at_most_doubled(work)
    assert rendered == ([0, 0] if item in ("[]", "1") else [3, 3])


@pytest.mark.parametrize("flaw", ["NaN", "-Infinity", "1e999", '"\\ud800"', '"\\ud800":1}, {"a"'])
@pytest.mark.parametrize("filler", ['"a"', "{}", "[]", "1.5", '{"a":["b"]}'])
def test_leniency_goes_over_a_text_a_fixed_number_of_times(flaw: str, filler: str) -> None:
    def work(size: int) -> int:
        flawed = flaw if not flaw.endswith('{"a"') else "{" + flaw + ":1}"
        text = '{"id":"x","values":[' + f"{filler}," * size + f'{flawed}],"model":"m"}}'
        found = []
        number = _work(lambda: found.append(_json.loads(text)))
        assert (found[0]["id"], found[0]["model"]) == ("x", "m")
        return number

    _at_most_doubled(work)


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff \n"])
def test_a_byte_order_mark_costs_nothing_of_what_follows(mark: str) -> None:
    for text in (mark + '{"id":"x"}', (mark + '{"id":"x"}').encode()):
        assert _json.loads(text) == {"id": "x"}
        assert _json.Members("id", "model").of(text) == {"id": "x"}
    assert _json.with_error(mark + '{"id":"x"}', {"code": "c"}) == '{"id":"x","error":{"code":"c"}}'


def test_members_are_read_without_the_others() -> None:
    members = _json.Members("id", "user")
    assert members.of('{"id":1,"input":["' + "\\ud800" + '"],"user":null}') == {"id": 1, "user": None}
    assert members.of('{"id":NaN,"rest":1}') == {"id": None}
    assert (members.of("[]"), members.of(""), members.of(None), members.of('{"id":')) == (None, None, None, None)

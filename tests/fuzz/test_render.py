"""Rows of any body: what is rendered grows with it, and so does the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rwriter.asgi import _json
from rwriter.asgi._render.events import closing_events, frame, opening_events
from rwriter.asgi._render.input import InputItems
from rwriter.asgi._render.response import chat_completion, response_object
from rwriter.store import RequestDetail, detail_of
from tests.fuzz.bounds import at_most_doubled, fuzzed, peak_of
from tests.support.odd_values import objects, values
from tests.support.reading import response_record

ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/messages", "/v1/completions", "/v1/embeddings")
LISTS = ("output", "content", "choices", "tools", "data", "messages", "input", "instructions", "metadata")

items = st.lists(objects | values, min_size=1, max_size=3)


def row(endpoint: str, many: list[Any], names: list[str]) -> RequestDetail:
    body = {"id": "x", "model": "m", **dict.fromkeys(names, many)}
    answer = {**body, "choices": [{"index": 0, "message": {"role": "assistant", "content": many, "tool_calls": many}}]}
    answer |= {"object": "response"} if "responses" in endpoint else {}
    made = response_record(json.dumps(answer), request_body=json.dumps(body), endpoint=endpoint)
    return detail_of(made)


def rendered(detail: RequestDetail) -> int:
    response = response_object(detail)
    frames = [frame(one) for one in (*opening_events(response), *closing_events(response))]
    page = InputItems(detail).page(limit=5, ascending=False, after=None)
    return sum(map(len, frames)) + len(_json.dumps([chat_completion(detail, "x"), page]))


@fuzzed
@given(st.sampled_from(ENDPOINTS), items, st.lists(st.sampled_from(LISTS), unique=True, min_size=1))
def test_a_row_of_any_body(endpoint: str, many: list[Any], names: list[str]) -> None:
    def work(times: int) -> Callable[[], Any]:
        detail = row(endpoint, many * times, names)
        return lambda: rendered(detail)

    at_most_doubled(work, 60)
    detail = row(endpoint, many * 60, names)
    size, peak = peak_of(rendered, detail)
    stored = len(detail.body) + len(detail.response_body or "")
    assert size <= 20_000 + 60 * stored
    assert peak <= 1_000_000 + 300 * stored


@fuzzed
@given(values, values)
def test_a_row_of_two_values(asked: Any, answered: Any) -> None:
    detail = detail_of(response_record(json.dumps(answered), request_body=json.dumps(asked)))
    assert rendered(detail) > 0

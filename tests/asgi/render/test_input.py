from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from rwriter.asgi._render.input import InputItems
from rwriter.store import RequestDetail, detail_of
from tests.support.reading import response_record

_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


def _all(detail: RequestDetail) -> list[dict[str, Any]]:
    found = InputItems(detail).page(limit=100, ascending=True, after=None)
    assert found is not None
    return found[0]


def _items(given: Any) -> list[dict[str, Any]]:
    request = json.dumps({"model": "gpt-test", "input": given})
    detail = detail_of(response_record(request_body=request))
    items = _all(detail)
    assert items == _all(detail)
    return items


def test_a_text_is_one_message_of_the_user() -> None:
    (item,) = _items("hello")
    assert (item["type"], item["role"], item["status"]) == ("message", "user", "completed")
    assert item["content"] == [{"type": "input_text", "text": "hello"}]
    _ITEM.validate_python(item)


def test_every_kind_of_item_has_an_id_and_is_one_the_official_client_knows() -> None:
    given = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"role": "assistant", "content": "hi"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "4"},
        {"type": "reasoning", "summary": []},
    ]
    items = _items(given)
    for item in items:
        _ITEM.validate_python(item)
    assert len({item["id"] for item in items}) == 6
    assert items[2]["content"] == [{"type": "output_text", "text": "hi", "annotations": []}]
    assert [item["type"] for item in items][3:] == ["function_call", "function_call_output", "reasoning"]


def test_an_id_is_kept_unless_another_item_has_it() -> None:
    first, second, third = _items([{"id": "a", "role": "user", "content": ""}, {"id": "a", "type": "x"}, {"id": 5}])
    assert first["id"] == "a"
    assert second["id"] not in ("a", third["id"])
    assert isinstance(third["id"], str)


@pytest.mark.parametrize("given", [None, 5, [], [None, 5]])
def test_what_is_no_input_has_no_items(given: Any) -> None:
    assert _items(given) == []


@pytest.mark.parametrize("body", ["", "no JSON", "[]", '{"rwriter":{"envelope":"truncated","size":9,"head":"{"}}'])
def test_a_request_that_was_not_kept_has_no_items(body: str) -> None:
    assert _all(detail_of(response_record(request_body=body))) == []

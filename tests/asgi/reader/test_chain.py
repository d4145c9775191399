"""A response and those before it, by ``previous_response_id``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rwriter import CompletedRequest, RequestStore, RequestsWriter
from rwriter.asgi import responses_app
from rwriter.asgi._ids import response_id
from tests.support.asgi_client import OWNER, owners
from tests.support.reading import response_body, response_record


def _turn(previous: CompletedRequest | str | None = None, **changes: Any) -> CompletedRequest:
    asked = response_id(previous.request_id) if isinstance(previous, CompletedRequest) else previous
    body = json.dumps({"input": "hello", "previous_response_id": asked})
    return response_record(**({"created_by": OWNER, "request_body": body} | changes))


async def test_those_before_a_response_come_the_latest_first(store: RequestStore) -> None:
    first = _turn(custom_id="resp_upstream")
    second = _turn("resp_upstream")
    third = _turn(second)
    await store.persist_completed([first, second])
    async with RequestsWriter(store, linger=60) as writer:
        await writer.send(third)
        chain = await responses_app(store, writer=writer, attribute=owners).chain(response_id(third.request_id), OWNER)
    assert [detail.id for detail in chain] == [third.request_id, second.request_id, first.request_id]
    assert chain[-1].response_body == first.response_body


async def test_an_answer_says_what_was_before_where_the_request_was_not_kept(store: RequestStore) -> None:
    first = _turn()
    answer = json.dumps(response_body(previous_response_id=response_id(first.request_id)))
    second = _turn(request_body="", response_body=answer)
    await store.persist_completed([first, second])
    chain = await responses_app(store, attribute=owners).chain(response_id(second.request_id), OWNER)
    assert [detail.id for detail in chain] == [second.request_id, first.request_id]


async def test_nothing_of_another_owners_is_in_it(store: RequestStore) -> None:
    theirs = _turn(created_by="bob", custom_id="resp_bobs")
    by_id, by_custom_id = _turn(theirs), _turn("resp_bobs")
    await store.persist_completed([theirs, by_id, by_custom_id])
    reader = responses_app(store, attribute=owners)
    for own in (by_id, by_custom_id):
        assert [detail.id for detail in await reader.chain(response_id(own.request_id), OWNER)] == [own.request_id]
    for asked in (response_id(theirs.request_id), "resp_bobs", "resp_unknown", "", "a\0b", "x" * 10_000):
        assert await reader.chain(asked, OWNER) == []


async def test_a_circle_is_cut(store: RequestStore) -> None:
    first, second, itself = (
        _turn("two", custom_id="one"),
        _turn("one", custom_id="two"),
        _turn("self", custom_id="self"),
    )
    await store.persist_completed([first, second, itself])
    reader = responses_app(store, attribute=owners)
    assert [detail.id for detail in await reader.chain("one", OWNER)] == [first.request_id, second.request_id]
    assert [detail.id for detail in await reader.chain("self", OWNER)] == [itself.request_id]


async def test_it_is_bounded_by_number_and_by_bytes(store: RequestStore) -> None:
    turns = [_turn()]
    for _ in range(5):
        turns.append(_turn(turns[-1]))
    await store.persist_completed(turns)
    reader, last = responses_app(store, attribute=owners), response_id(turns[-1].request_id)
    assert len(await reader.chain(last, OWNER)) == 6
    assert len(await reader.chain(last, OWNER, limit=3)) == 3
    size = len(turns[1].request_body) + len(turns[1].response_body)
    assert len(await reader.chain(last, OWNER, max_bytes=2 * size)) == 2
    # the one that was asked for is always there
    assert len(await reader.chain(last, OWNER, max_bytes=1)) == 1
    for wrong in ({"limit": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            await reader.chain(last, OWNER, **wrong)


@pytest.mark.parametrize("previous", [5, "", ["resp_x"], {"id": "x"}, True])
async def test_what_is_no_id_ends_it(store: RequestStore, previous: Any) -> None:
    only = _turn(request_body=json.dumps({"previous_response_id": previous}))
    await store.persist_completed([only])
    chain = await responses_app(store, attribute=owners).chain(response_id(only.request_id), OWNER)
    assert [detail.id for detail in chain] == [only.request_id]

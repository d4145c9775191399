"""Background responses with the official client: begun, polled, cancelled, failed."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import openai
import pytest

from examples.gateway.app import make_app, models_at
from examples.gateway.model_server import KEY
from examples.gateway.serving import Serving
from rwriter import RequestStore
from tests.gateway.watching import Keys, Watched, body_of, done, listed, owner_of, row_of, stored
from tests.support.driving import eventually

RUNNING = {"queued", "in_progress"}


async def _polled(client: Any, given: str) -> Any:
    """The response when it runs no more, asked for again and again as the API's documentation says."""
    last: list[Any] = []

    async def look() -> bool:
        last[:] = [await done(client.responses.retrieve(given))]
        return last[0].status not in RUNNING

    await eventually(look)
    return last[0]


async def test_a_background_response_is_polled_until_it_is_there(client: Any, store: RequestStore, keys: Keys) -> None:
    raw = await done(
        client.responses.with_raw_response.create(model="slow-1", input="später", background=True, metadata={"a": "b"})
    )
    begun = raw.parse()
    assert (raw.status_code, begun.status, begun.background) == (202, "in_progress", True)
    assert begun.id == f"resp_{row_of(raw)}"
    detail = await store.get_request(row_of(raw), consistent=True)
    assert detail is not None
    assert (detail.status, detail.created_by, detail.model) == ("processing", owner_of(keys.amber), "slow-1")
    found = await _polled(client, begun.id)
    assert (found.status, found.background, found.id) == ("completed", True, begun.id)
    assert found.output_text == "You said: später 🙂 Words: 1, all of them heard."
    assert (found.usage.input_tokens, found.usage.total_tokens) == (1, 11)
    assert found.metadata == {"a": "b"}
    row = await stored(store, row_of(raw))
    assert (row.status, row.response_status) == ("completed", 200)


async def test_the_upstreams_own_id_finds_it_too(client: Any, store: RequestStore) -> None:
    begun = await done(client.responses.create(model="gpt-5", input="background id", background=True))
    found = await _polled(client, begun.id)
    row = await stored(store, uuid.UUID(begun.id.removeprefix("resp_")))
    again = await done(client.responses.retrieve(body_of(row)["id"]))
    assert (again.output_text, again.usage) == (found.output_text, found.usage)


async def test_its_input_items_are_listed_while_it_runs(client: Any, watched: Watched) -> None:
    begun = await done(client.responses.create(model="slow-60", input="what was asked", background=True))
    items = await listed(await done(client.responses.input_items.list(begun.id)))
    assert [item.content[0].text for item in items] == ["what was asked"]
    await done(client.responses.cancel(begun.id))


async def test_a_cancelled_response_stays_cancelled(client: Any, store: RequestStore, watched: Watched) -> None:
    question = f"never mind {uuid.uuid4()}"
    raw = await done(client.responses.with_raw_response.create(model="slow-60", input=question, background=True))
    begun = raw.parse()
    await watched.has_heard(question)
    cancelled = await done(client.responses.cancel(begun.id))
    assert (cancelled.id, cancelled.status, cancelled.background) == (begun.id, "cancelled", True)
    row = await stored(store, row_of(raw))
    assert (row.status, row.response_status) == ("failed", 499)
    assert (await done(client.responses.retrieve(begun.id))).status == "cancelled"
    # the model works for nobody
    await watched.is_rid_of(question)
    # cancelling it again is no error
    assert (await done(client.responses.cancel(begun.id))).status == "cancelled"


async def test_a_response_cannot_be_cancelled_that_does_not_run_in_the_background(client: Any) -> None:
    answer = await done(client.responses.create(model="gpt-5", input="at once"))
    with pytest.raises(openai.BadRequestError):
        await done(client.responses.cancel(answer.id))


async def test_a_model_that_fails_leaves_a_failed_response(client: Any, store: RequestStore) -> None:
    raw = await done(client.responses.with_raw_response.create(model="error-429", input="x", background=True))
    found = await _polled(client, raw.parse().id)
    assert (found.status, found.background) == ("failed", True)
    assert found.error.message == "The model error-429 always fails."
    row = await stored(store, row_of(raw))
    assert (row.status, row.response_status) == ("failed", 429)


async def test_a_bad_request_in_the_background_fails_too(client: Any, store: RequestStore) -> None:
    raw = await done(client.responses.with_raw_response.create(model="gpt-5", background=True))
    row = await stored(store, row_of(raw))
    assert (row.status, row.response_status) == ("failed", 400)


async def test_a_deleted_background_response_does_not_come_back(
    client: Any, store: RequestStore, watched: Watched
) -> None:
    question = f"delete me {uuid.uuid4()}"
    raw = await done(client.responses.with_raw_response.create(model="slow-60", input=question, background=True))
    await watched.has_heard(question)
    await done(client.responses.delete(raw.parse().id))
    await watched.is_rid_of(question)
    with pytest.raises(openai.NotFoundError):
        await done(client.responses.retrieve(raw.parse().id))
    # one that ends later, so that the record of the deleted one has been written or never will be
    later = await done(client.responses.with_raw_response.create(model="gpt-5", input="after that"))
    await stored(store, row_of(later))
    assert await store.get_request(row_of(raw), consistent=True) is None


async def test_its_events_can_be_followed(client: Any) -> None:
    begun = await done(client.responses.create(model="slow-1", input="follow me", background=True))
    events = await listed(await done(client.responses.retrieve(begun.id, stream=True)))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text.startswith("You said: follow me")
    rest = await listed(await done(client.responses.retrieve(begun.id, stream=True, starting_after=1)))
    assert [event.sequence_number for event in rest] == list(range(2, len(events)))
    assert rest[-1].response == events[-1].response


async def test_a_gateway_that_stops_waits_for_what_runs(
    models: Serving, rwriter_database: str, keys: Keys, store: RequestStore, watched: Watched
) -> None:
    question = f"before you go {uuid.uuid4()}"
    upstream = models_at(models.url, key=KEY)
    app = make_app(database_url=rwriter_database, models=upstream, tenants={keys.amber: owner_of(keys.amber)})
    with Serving(app) as server:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=keys.amber, max_retries=0) as client:
            begun = await client.responses.create(model="slow-1", input=question, background=True)
        await watched.has_heard(question)
    row = await store.get_request(uuid.UUID(begun.id.removeprefix("resp_")), consistent=True)
    assert row is not None
    assert (row.status, row.response_status) == ("completed", 200)


async def test_many_at_once_all_end(gateway: Serving, keys: Keys) -> None:
    client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=keys.amber, max_retries=0)
    async with client:
        begun = await asyncio.gather(
            *(client.responses.create(model="gpt-5", input=f"number {n}", background=True) for n in range(12))
        )
        found = [await _polled(client, response.id) for response in begun]
    assert [response.output_text.split(" 🙂")[0] for response in found] == [f"You said: number {n}" for n in range(12)]

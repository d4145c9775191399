"""Calls that end badly: the client sees what the model server said, and the row says it too."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest

from examples.gateway.app import make_app, models_at
from examples.gateway.serving import Serving
from rwriter import RequestStore
from rwriter.schema import requests
from rwriter.testing import TestDbEngines
from tests.gateway.watching import Keys, body_of, done, listed, owner_of, row_of, rows_of, stored
from tests.support.rows import rows

MESSAGES: Any = [{"role": "user", "content": "what now"}]


@pytest.mark.parametrize(("status", "error"), [(429, openai.RateLimitError), (500, openai.InternalServerError)])
async def test_an_error_is_passed_on_and_recorded(
    client: Any, store: RequestStore, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error, match=f"The model error-{status} always fails") as caught:
        await done(client.responses.create(model=f"error-{status}", input="x"))
    row = await stored(store, row_of(caught.value.response))
    assert (row.status, row.response_status, row.model) == ("failed", status, f"error-{status}")
    assert body_of(row) == caught.value.response.json()
    assert caught.value.response.headers.get("retry-after") == ("1" if status == 429 else None)
    found = await done(client.responses.retrieve(caught.value.response.headers["x-rwriter-id"]))
    assert (found.status, found.error.message) == ("failed", f"The model error-{status} always fails.")


async def test_anthropics_client_gets_its_own_errors(claude: Any, store: RequestStore) -> None:
    with pytest.raises(anthropic.RateLimitError) as caught:
        await done(claude.messages.create(model="error-429", max_tokens=9, messages=MESSAGES))
    row = await stored(store, row_of(caught.value.response))
    assert (row.status, row.response_status) == ("failed", 429)


async def test_a_chat_stream_that_breaks_with_an_error_is_a_failed_row(client: Any, store: RequestStore) -> None:
    raw = await done(
        client.chat.completions.with_raw_response.create(model="stream-error", messages=MESSAGES, stream=True)
    )
    with pytest.raises(openai.APIError, match="in the middle of its answer"):
        await listed(raw.parse())
    row = await stored(store, row_of(raw))
    assert (row.status, row.response_status) == ("failed", 500)
    body = body_of(row)
    assert body["error"]["message"] == "The model failed in the middle of its answer."
    assert body["choices"][0]["message"]["content"].startswith("You said:")


async def test_a_responses_stream_that_breaks_with_an_error_is_a_failed_row(client: Any, store: RequestStore) -> None:
    raw = await done(client.responses.with_raw_response.create(model="stream-error", input="what now", stream=True))
    events = await listed(raw.parse())
    assert events[-1].type == "error"
    row = await stored(store, row_of(raw))
    assert (row.status, row.response_status) == ("failed", 500)
    assert body_of(row)["error"]["message"] == "The model failed in the middle of its answer."
    found = await done(client.responses.retrieve(f"resp_{row.id}"))
    assert found.status == "failed"


async def test_a_message_stream_that_breaks_with_an_error_is_a_failed_row(claude: Any, store: RequestStore) -> None:
    create = claude.messages.with_raw_response.create
    raw = await done(create(model="stream-error", max_tokens=99, messages=MESSAGES, stream=True))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await listed(await done(raw.parse()))
    row = await stored(store, row_of(raw))
    # what an overloaded server of theirs answers with
    assert (row.status, row.response_status) == ("failed", 529)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/messages"])
async def test_a_stream_without_its_end_is_a_failed_row_with_what_had_come(
    http: httpx.AsyncClient, store: RequestStore, path: str
) -> None:
    body = {"model": "cut", "stream": True, "input": "a", "prompt": "a", "messages": MESSAGES, "max_tokens": 99}
    answer = await http.post(path, json=body)
    assert answer.status_code == 200
    row = await stored(store, row_of(answer))
    assert (row.status, row.response_status) == ("failed", 502)
    stored_body = body_of(row)
    assert stored_body["error"]["type"] == "stream_truncated"
    assert "You said:" in str(stored_body)


async def test_a_model_server_that_is_away_is_a_502(rwriter_database: str, store: RequestStore, keys: Keys) -> None:
    nowhere = models_at("http://127.0.0.1:1", key="k")
    app = make_app(database_url=rwriter_database, models=nowhere, tenants={keys.amber: owner_of(keys.amber)})
    with Serving(app) as server:
        async with httpx.AsyncClient(base_url=server.url, headers={"x-api-key": keys.amber}) as http:
            answer = await http.post("/v1/responses", json={"model": "gpt-5", "input": "x"})
    assert answer.status_code == 502
    # the writer has drained: no need to wait for it
    [row] = await rows_of(store, keys.amber)
    assert (row.response_status, body_of(row)) == (502, answer.json())


@pytest.mark.parametrize("key", ["Bearer sk-unknown", "Bearer", "Basic sk-unknown", ""])
async def test_a_call_without_a_known_key_is_refused_and_not_recorded(
    http: httpx.AsyncClient, store: RequestStore, rwriter_engines: TestDbEngines, key: str
) -> None:
    refused = await http.post("/v1/responses", json={"model": "m", "input": "x"}, headers={"authorization": key})
    assert refused.status_code == 401
    answer = await http.post("/v1/responses", json={"model": "gpt-5", "input": "x"})
    # a later call has its row, the refused one has none
    await stored(store, row_of(answer))
    assert await rows(rwriter_engines.write, requests, row_of(refused)) == []


async def test_bytes_that_are_no_json_are_recorded_as_they_came(http: httpx.AsyncClient, store: RequestStore) -> None:
    answer = await http.post("/v1/responses", content=b'{"model":')
    assert answer.status_code == 400
    row = await stored(store, row_of(answer))
    assert (row.body, row.response_status) == ('{"model":', 400)
    assert body_of(row) == answer.json()

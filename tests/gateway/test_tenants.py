"""No id, header or path lets one tenant read, list, cancel or delete what is another's."""

from __future__ import annotations

import uuid
from typing import Any, Final
from urllib.parse import quote

import httpx
import openai
import pytest
from sqlalchemy import RowMapping

from examples.gateway.serving import Serving
from rwriter import RequestStore
from rwriter.schema import requests
from rwriter.testing import TestDbEngines
from tests.gateway.watching import Keys, Watched, body_of, owner_of, row_of, rows_of, stored
from tests.support.rows import one, template_of

PROBES: Final = [
    ("GET", "/v1/responses/{}"),
    ("GET", "/v1/responses/{}?stream=true"),
    ("GET", "/v1/responses/{}/input_items"),
    ("GET", "/v1/chat/completions/{}"),
    ("POST", "/v1/responses/{}/cancel"),
    ("DELETE", "/v1/responses/{}"),
]


async def _probes(http: httpx.AsyncClient, given: str) -> list[tuple[int, bytes]]:
    """Return the answer to each probe of an id, the id itself taken out of the words."""
    answers = [await http.request(method, path.format(quote(given, safe=""))) for method, path in PROBES]
    assert not [answer for answer in answers if "x-rwriter-id" in answer.headers]
    return [(answer.status_code, answer.content.replace(given.encode(), b"ID")) for answer in answers]


async def _nowhere(http: httpx.AsyncClient) -> list[tuple[int, bytes]]:
    """Return the answers to an id that nobody has."""
    unknown = await _probes(http, f"resp_{uuid.uuid4()}")
    assert {status for status, _ in unknown} == {404}
    return unknown


async def _made(amber: openai.OpenAI, store: RequestStore, kind: str = "response") -> list[str]:
    """The ids, ours and the upstream's, of a call that ``amber`` has made."""
    if kind == "response":
        raw: Any = amber.responses.with_raw_response.create(model="gpt-5", input="amber's secret")
    else:
        messages: Any = [{"role": "user", "content": "amber's secret"}]
        raw = amber.chat.completions.with_raw_response.create(model="gpt-4.1", messages=messages)
    await stored(store, row_of(raw))
    return [f"resp_{row_of(raw)}", raw.parse().id]


async def _columns(engines: TestDbEngines, given: str) -> list[RowMapping]:
    """Every column of a call's row and template, and the transactions that wrote them."""
    row = uuid.UUID(given.removeprefix("resp_"))
    return [await one(engines.write, requests, row), await template_of(engines.write, row)]


@pytest.mark.parametrize("kind", ["response", "chat"])
async def test_a_foreign_id_is_answered_like_an_unknown_one(
    amber: openai.OpenAI, http_birch: httpx.AsyncClient, store: RequestStore, rwriter_engines: TestDbEngines, kind: str
) -> None:
    given = await _made(amber, store, kind)
    before = await _columns(rwriter_engines, given[0])
    unknown = await _nowhere(http_birch)
    variants = [
        variant for each in given for variant in (each, each.upper(), each + " ", "%" + each, f"{each}/../{each}")
    ]
    bare = given[0].removeprefix("resp_")
    for variant in [*variants, bare, bare.replace("-", ""), f"resp_{bare.replace('-', '')}", f"resp_{{{bare}}}"]:
        assert await _probes(http_birch, variant) == unknown, variant
    assert await _columns(rwriter_engines, given[0]) == before


async def test_without_a_known_key_nothing_is_looked_at(
    amber: openai.OpenAI, keys: Keys, gateway: Serving, store: RequestStore, rwriter_engines: TestDbEngines
) -> None:
    given = await _made(amber, store)
    before = await _columns(rwriter_engines, given[0])
    strangers: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer sk-unknown"},
        {"authorization": f"Basic {keys.amber}"},
        {"authorization": f"Bearer {keys.amber}, Bearer sk-unknown"},
        {"authorization": f"Bearer {owner_of(keys.amber)}"},
        {"x-rwriter-created-by": owner_of(keys.amber)},
        {"x-api-key": keys.amber.upper()},
    ]
    for headers in strangers:
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as http:
            for each in [*given, f"resp_{uuid.uuid4()}", "nonsense"]:
                assert {status for status, _ in await _probes(http, each)} == {401}, (headers, each)
            assert (await http.get("/v1/responses")).status_code == 401
    assert await _columns(rwriter_engines, given[0]) == before


async def test_each_key_of_a_request_is_asked_for_until_one_is_known(
    amber: openai.OpenAI, keys: Keys, gateway: Serving, store: RequestStore
) -> None:
    given, _ = await _made(amber, store)
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={"authorization": "Bearer of-an-oauth-provider", "x-api-key": keys.amber}
    ) as http:
        assert (await http.get(f"/v1/responses/{given}")).status_code == 200


async def test_each_finds_its_own_of_two_answers_with_one_id(
    amber: openai.OpenAI, birch: openai.OpenAI, store: RequestStore
) -> None:
    raws: list[Any] = [
        each.responses.with_raw_response.create(model="gpt-5", input="the same question") for each in (amber, birch)
    ]
    [shared] = {raw.parse().id for raw in raws}
    for raw in raws:
        await stored(store, row_of(raw))
    birch.responses.delete(shared)
    with pytest.raises(openai.NotFoundError):
        birch.responses.retrieve(shared)
    assert amber.responses.retrieve(shared).output_text.startswith("You said: the same question")
    assert await store.get_request(row_of(raws[1]), consistent=True) is None


async def test_the_listing_shows_only_ones_own(
    amber: openai.OpenAI, http: httpx.AsyncClient, http_birch: httpx.AsyncClient, keys: Keys, store: RequestStore
) -> None:
    given = await _made(amber, store)
    for asked in ("", f"?created_by={owner_of(keys.amber)}", f"?after={given[0]}", f"?after={given[1]}", "?limit=100"):
        listing = await http_birch.get(f"/v1/responses{asked}")
        assert given[0] not in listing.text
        assert "secret" not in listing.text
        # what is another's to begin after is not there
        assert listing.status_code in {200, 400, 404}
    assert [item["id"] for item in (await http.get("/v1/responses")).json()["data"]] == [given[0]]


async def test_paging_through_the_listing_meets_nobody_else(
    amber: openai.OpenAI, birch: openai.OpenAI, http_birch: httpx.AsyncClient, store: RequestStore
) -> None:
    for number in range(3):
        raw: Any = birch.responses.with_raw_response.create(model="gpt-5", input=f"birch {number}")
        await stored(store, row_of(raw))
        await _made(amber, store)
    seen, after = [], ""
    while True:
        page = (await http_birch.get(f"/v1/responses?limit=1{after}")).json()
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert len(seen) == len(set(seen)) == 3
    assert {birch.responses.retrieve(given).output_text[:15] for given in seen} == {"You said: birch"}


async def test_no_client_chooses_the_id_or_the_owner_of_a_row(
    amber: openai.OpenAI, http_birch: httpx.AsyncClient, keys: Keys, store: RequestStore, rwriter_engines: TestDbEngines
) -> None:
    [ours, theirs] = await _made(amber, store)
    before = await _columns(rwriter_engines, ours)
    owner = owner_of(keys.amber)
    pretended = {
        "x-rwriter-id": ours,
        "x-request-id": ours,
        "x-rwriter-created-by": owner,
        "x-rwriter-model": "amber-model",
        "x-rwriter-background": "true",
    }
    body = {"model": "gpt-5", "input": "birch's", "id": theirs, "previous_response_id": ours, "created_by": owner}
    answer = await http_birch.post("/v1/responses", headers=pretended, json=body)
    row = await stored(store, row_of(answer))
    assert f"resp_{row.id}" != ours
    assert (row.created_by, row.model, body_of(row)["id"] == theirs) == (owner_of(keys.birch), "gpt-5", False)
    assert await _columns(rwriter_engines, ours) == before
    assert [len(await rows_of(store, key)) for key in keys] == [1, 1]


async def test_a_running_response_is_its_owners_alone(
    amber: openai.OpenAI, http_birch: httpx.AsyncClient, store: RequestStore, watched: Watched
) -> None:
    question = f"amber runs {uuid.uuid4()}"
    begun = amber.responses.create(model="slow-60", input=question, background=True)
    await watched.has_heard(question)
    assert await _probes(http_birch, begun.id) == await _nowhere(http_birch)
    assert amber.responses.retrieve(begun.id).status == "in_progress"
    # another's background call under a pretended id completes a row of its own
    body = {"model": "gpt-5", "input": "x", "id": begun.id, "background": True}
    answer = await http_birch.post("/v1/responses", headers={"x-rwriter-id": begun.id}, json=body)
    assert (await stored(store, row_of(answer))).status == "completed"
    assert row_of(answer) != uuid.UUID(begun.id.removeprefix("resp_"))
    assert amber.responses.retrieve(begun.id).status == "in_progress"
    assert amber.responses.cancel(begun.id).status == "cancelled"


async def test_two_keys_at_once_are_one_tenant_everywhere(
    http: httpx.AsyncClient, http_birch: httpx.AsyncClient, keys: Keys, store: RequestStore
) -> None:
    second = {"x-api-key": keys.amber}
    answer = await http_birch.post("/v1/responses", headers=second, json={"model": "gpt-5", "input": "whose?"})
    row = await stored(store, row_of(answer))
    assert row.created_by == owner_of(keys.birch)
    path = f"/v1/responses/resp_{row.id}"
    assert (await http_birch.get(path, headers=second)).status_code == 200
    assert (await http.get(path)).status_code == 404

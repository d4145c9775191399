from __future__ import annotations

import asyncio
import uuid
from urllib.parse import quote

import pytest

from rwriter import RequestStore, RequestsWriter, new_request_id
from rwriter.asgi import attribute_from_state, responses_app
from rwriter.asgi._ids import response_id
from rwriter.asgi._types import ASGIApp, Receive, Scope, Send
from rwriter.schema import requests
from tests.asgi.reader.test_changes import begun
from tests.support.asgi_client import OWNER, owners
from tests.support.reading import chat_record, response_record
from tests.support.rows import insert_request, rows, snapshot
from tests.support.servers import database_away
from tests.support.serving import plain_client

ROUTES = [
    ("GET", "/v1/responses/{id}"),
    ("GET", "/v1/responses/{id}?stream=true"),
    ("DELETE", "/v1/responses/{id}"),
    ("POST", "/v1/responses/{id}/cancel"),
    ("GET", "/v1/responses/{id}/input_items"),
    ("GET", "/v1/responses?after={id}"),
    ("GET", "/v1/chat/completions/{id}"),
]
NOWHERE = response_id(uuid.UUID(int=7))

BAD_IDS = [
    "x",
    "resp_",
    "resp_nothing",
    "resp_" + "0" * 32,
    response_id(uuid.UUID(int=7)).upper(),
    "..%2F..%2Fetc",
    "a%2Fb%2Fcancel",
    "a%2Fcancel",
    "nul%00in%00it",
    "%FF%FE",
    "%ED%A0%80",
    "line%0Abreak",
    "%F0%9F%98%80",
    "'%20OR%201=1--",
    "a" * 512,
    "a" * 10_000,
    quote("ä" * 600),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_foreign_id_answers_like_an_unknown_one_to_the_byte(
    store: RequestStore, method: str, path: str
) -> None:
    finished = response_record(created_by=OWNER, custom_id="resp_upstream")
    chat = chat_record({"content": "hi"}, created_by=OWNER, custom_id="chatcmpl-1")
    new, batched = begun(), await insert_request(store._connections.write, batch_id=new_request_id())
    await store.persist_completed([finished, chat])
    await store.create_realtime(new)
    before = await snapshot(store._connections.write)
    async with RequestsWriter(store, linger=60) as writer:
        buffered = response_record(created_by=OWNER, custom_id="resp_buffered")
        await writer.send(buffered)
        app = responses_app(store, writer=writer, attribute=owners)
        foreign = [response_id(r.request_id) for r in (finished, chat, new, buffered)]
        foreign += ["resp_upstream", "chatcmpl-1", "resp_buffered", response_id(batched)]
        # whatever else the client sends: only its key says who it is
        headers = {"x-rwriter-id": foreign[0], "x-created-by": OWNER, "openai-organization": OWNER}
        async with plain_client(app, key="sk-bob") as client:
            unknown = await client.request(method, path.format(id=NOWHERE))
            assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
            for asked in foreign:
                answer = await client.request(method, path.format(id=asked), headers=headers)
                assert (answer.status_code, answer.content) == (404, unknown.content)
                assert answer.headers.items() == unknown.headers.items()
    assert await snapshot(store._connections.write) != before  # the buffered one has its row by now
    assert {row["state"] for row in await rows(store._connections.write, requests, new.request_id)} == {"processing"}
    assert len(await rows(store._connections.write, requests)) == 5


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_bad_id_answers_like_an_unknown_one(store: RequestStore, method: str, path: str) -> None:
    async with plain_client(responses_app(store, attribute=owners)) as client:
        unknown = await client.request(method, path.format(id=NOWHERE))
        for asked in BAD_IDS:
            answer = await client.request(method, path.format(id=asked))
            assert (answer.status_code, answer.content) == (404, unknown.content), asked


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/v1/responses")])
@pytest.mark.parametrize("key", [None, "sk-unknown", ""])
async def test_without_a_known_key_nothing_is_looked_at(method: str, path: str, key: str | None) -> None:
    # the database is not there, and the query parameters are wrong: nobody gets to see either
    async with database_away() as engine:
        app = responses_app(RequestStore(engine), attribute=owners)
        async with plain_client(app, key) as client:
            for asked in (NOWHERE, "line%0Abreak", "a%2Fb"):
                url = path.format(id=asked)
                answer = await client.request(method, url + ("&" if "?" in url else "?") + "limit=x&starting_after=x")
                assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
                assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/v1/responses")])
async def test_a_database_that_is_away_is_a_503_that_says_when_to_come_back(method: str, path: str) -> None:
    async with database_away() as engine:
        async with plain_client(responses_app(RequestStore(engine), attribute=owners)) as client:
            answer = await client.request(method, path.format(id=NOWHERE))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["type"] == "server_error"


async def test_an_attribute_that_cannot_tell_is_a_503_and_no_401(store: RequestStore) -> None:
    def broken(api_key: str, scope: Scope) -> str:
        raise LookupError(api_key)

    async with plain_client(responses_app(store, attribute=broken)) as client:
        answer = await client.get(f"/v1/responses/{NOWHERE}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "sk-alice" not in answer.text


async def test_an_attribute_that_takes_too_long_is_a_503(store: RequestStore) -> None:
    async def slow(api_key: str, scope: Scope) -> str:
        await asyncio.Event().wait()
        return OWNER

    async with plain_client(responses_app(store, attribute=slow, lookup_timeout=0.01)) as client:
        answer = await client.get(f"/v1/responses/{NOWHERE}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    with pytest.raises(ValueError, match="timeout"):
        responses_app(store, attribute=slow, lookup_timeout=0)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1e1", "limit=%EF%BC%91", "limit=" + "9" * 5_000],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/{id}/input_items"])
async def test_a_limit_that_cannot_be_used_is_named(store: RequestStore, path: str, query: str) -> None:
    async with plain_client(responses_app(store, attribute=owners)) as client:
        answer = await client.get(f"{path.format(id=NOWHERE)}?{query}")
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "limit")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/responses?status=incomplete", "status"),
        ("/v1/responses?status=", "status"),
        ("/v1/responses/{id}/input_items?order=up", "order"),
        ("/v1/responses/{id}?stream=perhaps", "stream"),
        ("/v1/responses/{id}?starting_after=-1", "starting_after"),
        ("/v1/responses/{id}?stream=true&starting_after=x", "starting_after"),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named(store: RequestStore, path: str, param: str) -> None:
    async with plain_client(responses_app(store, attribute=owners)) as client:
        answer = await client.get(path.format(id=NOWHERE))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_an_item_to_page_after_that_is_not_there_is_a_404(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER)
    await store.persist_completed([finished])
    async with plain_client(responses_app(store, attribute=owners)) as client:
        path = f"/v1/responses/{response_id(finished.request_id)}/input_items"
        assert (await client.get(path, params={"after": "msg_nowhere"})).status_code == 404
        first = (await client.get(path)).json()["first_id"]
        page = (await client.get(path, params={"after": first})).json()
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_a_slash_at_the_end_of_a_path_changes_no_answer(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER)
    chat = chat_record({"content": "hi"}, created_by=OWNER, endpoint="/v1/chat/completions/")
    await store.persist_completed([finished, chat])
    one, other = response_id(finished.request_id), response_id(chat.request_id)
    paths = ["/v1/responses", f"/v1/responses/{one}", f"/v1/responses/{one}/input_items"]
    async with plain_client(responses_app(store, attribute=owners)) as client:
        for path in [*paths, f"/v1/responses/{other}", f"/v1/chat/completions/{other}", f"/v1/responses/{NOWHERE}"]:
            plain, slashed = await client.get(path), await client.get(path + "/")
            assert (slashed.status_code, slashed.content) == (plain.status_code, plain.content)
        assert (await client.post(f"/v1/responses/{one}/cancel/")).json()["error"]["code"] == "not_background"
        assert (await client.delete(f"/v1/responses/{one}/")).json()["deleted"] is True
        assert (await client.get(f"/v1/responses/{one}")).status_code == 404
    async with plain_client(responses_app(store, attribute=owners), key="sk-bob") as client:
        assert (await client.get(f"/v1/responses/{other}/")).status_code == 404


async def test_a_wrong_method_and_a_wrong_path_are_said_in_json(store: RequestStore) -> None:
    async with plain_client(responses_app(store, attribute=owners)) as client:
        answer = await client.put(f"/v1/responses/{NOWHERE}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (405, "invalid_request_error")
        assert "GET" in answer.headers["allow"]
        answer = await client.get("/v1/elsewhere")
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


async def test_the_owner_may_come_from_the_apps_own_authentication(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER)
    await store.persist_completed([finished])
    app = responses_app(store, attribute=attribute_from_state())
    for owner, status in ((OWNER, 200), ("bob", 404), (None, 401)):
        async with plain_client(_authenticated(app, owner), key="sk-bob") as client:
            answer = await client.get(f"/v1/responses/{response_id(finished.request_id)}")
        assert answer.status_code == status


def _authenticated(app: ASGIApp, owner: str | None) -> ASGIApp:
    state = {} if owner is None else {"created_by": owner}

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": state}, receive, send)

    return authenticated


def test_a_timeout_that_cannot_be_used_is_named(store: RequestStore) -> None:
    with pytest.raises(ValueError, match="settle_timeout"):
        responses_app(store, attribute=owners, settle_timeout=-1)
    with pytest.raises(ValueError, match="stream_timeout"):
        responses_app(store, attribute=owners, stream_timeout=float("nan"))

"""Nobody sees or changes anything whom ``authorize`` does not know, and no other site can make a browser do it."""

from __future__ import annotations

import logging
import uuid
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount

from rwriter import RequestStore
from rwriter.admin import mount
from rwriter.admin._csrf import COOKIE, FIELD, token_for
from rwriter.asgi import responses_app
from rwriter.schema import requests
from rwriter.store import DeadLetters
from rwriter.testing import TestDbEngines
from tests.admin.shown import PAGED, Page, client_for, client_of, let_in
from tests.support.asgi_client import owners
from tests.support.records import record
from tests.support.rows import rows
from tests.support.servers import database_away

SOME = uuid.UUID(int=7)
ROUTES = [
    *[("GET", path) for path in ("/", "/find?id=x", "/usage", "/dead-letters", "/admin.css", "/nothing", "/%0A")],
    *[("GET", f"/requests/{SOME}{end}") for end in ("", "/bodies")],
    *[("GET", f"/dead-letters/{SOME}{end}") for end in ("", "/record")],
    ("POST", f"/dead-letters/{SOME}/replay"),
    ("PUT", "/"),
]


@pytest.mark.parametrize("authorize", [None, True, "admin", object()])
def test_the_page_is_not_mounted_without_a_function_that_authorizes(filled: TestDbEngines, authorize: Any) -> None:
    app = Starlette()
    with pytest.raises(TypeError, match=r"authorize must be a function of the request .* e\.g\. authorize=lambda"):
        mount(app, filled, authorize=authorize)
    with pytest.raises(TypeError, match="authorize must be"):
        mount(app, filled)
    assert app.routes == []


def test_a_path_where_the_page_would_not_be_reached_is_refused(filled: TestDbEngines) -> None:
    app = Starlette()
    for path in ("", "/", "admin", "/admin/"):
        with pytest.raises(ValueError, match="path must begin with /"):
            mount(app, filled, authorize=let_in, path=path)
    app.mount("/", responses_app(RequestStore(filled), attribute=owners))
    with pytest.raises(ValueError, match="mount the page before it"):
        mount(app, filled, authorize=let_in)


async def test_whoever_is_refused_learns_nothing_and_the_database_is_not_asked() -> None:
    async def nobody(_request: Request) -> bool:
        return False

    async with database_away() as engine, client_of(engine, authorize=nobody) as client:
        answers = [await client.request(method, f"/admin{path}") for method, path in ROUTES]
    assert {(answer.status_code, answer.text) for answer in answers} == {(403, "You may not see this page.")}
    assert all("set-cookie" not in answer.headers for answer in answers)


@pytest.mark.parametrize("answer", [None, 1, "yes", (False, "no admin"), {"user": "x"}])
async def test_an_answer_that_is_not_true_lets_nobody_in(
    filled: TestDbEngines, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(filled, authorize=lambda _request: answer) as client:
        with caplog.at_level(logging.WARNING, "rwriter"):
            assert (await client.get("/admin/")).status_code == 403
    assert f"authorize answered with {type(answer).__name__} in place of True or False" in caplog.text


async def test_authorize_may_answer_by_itself_raise_an_http_error_or_fail(
    filled: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    def by_key(request: Request) -> Any:
        match request.headers.get("x-key"):
            case "sign in":
                return RedirectResponse("/login")
            case "http":
                raise HTTPException(401, "Who are you?", {"www-authenticate": "Basic"})
            case "broken":
                raise LookupError("a secret")
            case key:
                return key == "right"

    async with client_of(filled, authorize=by_key) as client:

        async def get(key: str) -> httpx.Response:
            return await client.get("/admin/", headers={"x-key": key})

        assert (await get("sign in")).headers["location"] == "/login"
        refused = await get("http")
        assert (refused.status_code, refused.text, refused.headers["www-authenticate"]) == (
            401,
            "Who are you?",
            "Basic",
        )
        failed = await get("broken")
        assert (failed.status_code, "a secret" in failed.text) == (503, False)
        assert (await get("right")).status_code == 200
    assert "authorize raised LookupError" in caplog.text
    assert "a secret" not in caplog.text


async def test_a_websocket_is_closed(filled: TestDbEngines) -> None:
    app, sent = Starlette(), list[Any]()
    mount(app, filled, authorize=let_in)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/admin/", "headers": [], "query_string": b"", "scheme": "ws"}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_every_answer_has_the_headers_that_keep_it_to_itself(filled: TestDbEngines) -> None:
    paths = ["/", f"/requests/{PAGED[0].request_id}", "/dead-letters", "/usage", "/admin.css", "/nothing", "/?limit=x"]
    async with client_of(filled) as client, client_of(filled, authorize=lambda _: False) as refused:
        for answer in [*[await client.get(f"/admin{path}") for path in paths], await refused.get("/admin/")]:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "script-src" not in policy
            assert "unsafe" not in policy
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_letter_is_replayed_by_the_form_of_its_page(rwriter_engines: TestDbEngines) -> None:
    store, letters = RequestStore(rwriter_engines), DeadLetters(rwriter_engines)
    good, bad = record(), record(model="refused")
    for each in (good, bad):
        await store.bury(each, sqlstate="23514", error="no")
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE requests ADD CHECK (model <> 'refused')"))
    found = {letter.request_id: letter.id for letter in await letters.listing()}

    async def replay(letter_id: uuid.UUID) -> str:
        form = Page((await client.get(f"/admin/dead-letters/{letter_id}")).text).hidden()
        answer = await client.post(f"/admin/dead-letters/{letter_id}/replay", data=form)
        assert answer.status_code == 303
        return (await client.get(answer.headers["location"])).text

    async with client_of(rwriter_engines) as client:
        assert "The record is stored" in await replay(found[good.request_id])
        assert "still refuses the record" in await replay(found[bad.request_id])
        form = Page((await client.get("/admin/dead-letters")).text).hidden()
        again = await client.post(f"/admin/dead-letters/{found[good.request_id]}/replay", data=form)
    assert again.headers["location"].endswith("told=gone")
    assert [row["id"] for row in await rows(rwriter_engines.write, requests)] == [good.request_id]
    assert [letter.request_id for letter in await letters.listing()] == [bad.request_id]


async def test_a_form_that_another_site_sent_changes_nothing(rwriter_engines: TestDbEngines) -> None:
    await RequestStore(rwriter_engines).bury(record(), sqlstate="23514", error="no")
    (letter,) = await DeadLetters(rwriter_engines).listing()
    path = f"/admin/dead-letters/{letter.id}/replay"
    async with client_of(rwriter_engines) as client:
        form = Page((await client.get("/admin/dead-letters")).text).hidden()
        cookie = client.cookies[COOKIE]
        assert cookie not in form.values()
        refused: list[tuple[dict[str, str], dict[str, str]]] = [
            ({}, {}),
            ({FIELD: ""}, {}),
            ({FIELD: cookie}, {}),
            ({FIELD: token_for("x" * 43)}, {}),
            ({FIELD: "ü"}, {}),
            (form, {"sec-fetch-site": "cross-site"}),
            (form, {"sec-fetch-site": "same-site"}),
            (form, {"origin": "http://evil.example"}),
            (form, {"origin": "null"}),
            # without the cookie, as a browser sends a form of another site
            (form, {"cookie": ""}),
            ({FIELD: token_for("")}, {"cookie": f"{COOKIE}="}),
        ]
        for data, headers in refused:
            answer = await client.post(path, data=data, headers=headers)
            assert (answer.status_code, "This form" in answer.text) == (403, True), (data, headers)
        assert (await client.post(path, content=b"x" * 5_000)).status_code == 413
        assert (await client.get(path)).status_code == 405
        assert [each.id for each in await DeadLetters(rwriter_engines).listing()] == [letter.id]
        for headers in ({"origin": "http://test"}, {"origin": "http://elsewhere", "sec-fetch-site": "same-origin"}):
            assert (await client.post(path, data=form, headers=headers)).status_code == 303
    assert await DeadLetters(rwriter_engines).listing() == []


async def test_the_cookie_of_a_form_is_kept_from_scripts_other_sites_and_other_paths(filled: TestDbEngines) -> None:
    async with client_of(filled) as client:
        plain = SimpleCookie((await client.get("/admin/dead-letters")).headers["set-cookie"])[COOKIE]
        secure = SimpleCookie((await client.get("https://test/admin/dead-letters")).headers["set-cookie"])[COOKIE]
    assert (plain["samesite"], plain["httponly"], plain["path"]) == ("strict", True, "/admin")
    assert (plain["secure"], secure["secure"]) == ("", True)


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_the_page_works_under_any_root_path(filled: TestDbEngines, framework: type[Starlette]) -> None:
    app = framework()
    mount(app, filled, authorize=let_in, path="/inner/page")
    outer = Starlette(routes=[Mount("/service", app), Mount("/", PlainTextResponse("the service's own"))])
    # a proxy hands the whole path on, or takes its prefix away
    for served, root, front in (
        (app, "", "/inner/page"),
        (outer, "", "/service/inner/page"),
        (outer, "/proxy", "/proxy/service/inner/page"),
        (app, "/proxy", "/inner/page"),
    ):
        public = front if front.startswith(root) else root + front
        async with client_for(served, root_path=root) as client:
            assert (await client.get(front)).headers["location"] == "page/"
            page = Page((await client.get(f"{front}/?limit=1")).text)
            (style,) = (str(given["href"]) for given in page.all("link") if given["rel"] == "stylesheet")
            links = [*page.links(), style, str(next(page.all("form"))["action"])]
            assert all(link.startswith(f"{public}/") for link in links)
            for link in links[:-1]:
                assert (await client.get(front + link.removeprefix(public))).status_code == 200, link

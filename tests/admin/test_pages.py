"""The pages show what is stored, with one query each, and run nothing of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore
from rwriter.store import DeadLetters
from rwriter.testing import TestDbEngines
from tests.admin.shown import HOSTILE, HOSTILE_RECORD, PAGED, SPELLED, Page, client_of, request_at, week
from tests.support.records import STARTED, new_request, record
from tests.support.servers import database_away

ROW = f"/admin/requests/{HOSTILE_RECORD.request_id}"
REFLECTING = [
    f"/admin/?created_by={quote(HOSTILE)}&models={quote(HOSTILE)}&metadata=a%3D{quote(HOSTILE)}&tier={quote(HOSTILE)}",
    f"/admin/?created_after={quote(HOSTILE)}",
    f"/admin/?limit={quote(HOSTILE)}&offset={quote(HOSTILE)}",
    f"/admin/?cursor={quote(HOSTILE)}",
    f"/admin/find?id={quote(HOSTILE)}",
    f"/admin/usage?since={quote(HOSTILE)}&by={quote(HOSTILE)}",
    f"/admin/dead-letters?cursor={quote(HOSTILE)}",
    f"/admin/dead-letters?told={quote(HOSTILE)}",
]
ELEMENTS = {
    *("html", "head", "meta", "title", "link", "body", "header", "nav", "strong", "a", "main", "section", "h1", "h2"),
    *("form", "label", "input", "select", "option", "textarea", "fieldset", "legend", "button", "p", "code", "span"),
    *("table", "thead", "tbody", "tfoot", "tr", "th", "td", "dl", "dt", "dd", "pre", "svg", "rect"),
}


async def the_letter(engines: TestDbEngines) -> uuid.UUID:
    (letter,) = await DeadLetters(engines).listing()
    return letter.id


async def every_page(engines: TestDbEngines) -> list[str]:
    """The paths of the pages that show a row."""
    letter = f"/admin/dead-letters/{await the_letter(engines)}"
    usage = [f"/admin/usage?{week()}&by={group}" for group in ("day", "hour", "model", "created_by")]
    return ["/admin/", ROW, f"{ROW}/bodies", "/admin/dead-letters", letter, f"{letter}/record", *usage]


@contextmanager
def statements_of(engine: AsyncEngine) -> Iterator[list[str]]:
    """Collect the statements that are sent through ``engine``."""
    seen: list[str] = []

    def see(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine.sync_engine, "before_cursor_execute", see)


async def test_no_text_of_a_row_or_of_a_query_becomes_an_element(filled: TestDbEngines) -> None:
    async with client_of(filled) as client:
        for path in [*await every_page(filled), *REFLECTING]:
            page = Page((await client.get(path)).text)
            assert {name for name, _ in page.elements} <= ELEMENTS, path
            attributes = [name for _, given in page.elements for name in given]
            assert not [name for name in attributes if name.startswith("on") or name == "style"], path
            assert all(link.startswith("/admin/") for link in page.links()), path


async def test_every_text_of_a_row_is_shown_with_its_control_characters_spelled_out(filled: TestDbEngines) -> None:
    shown_times = {"/admin/": 3, ROW: 3, f"{ROW}/bodies": 5, "/admin/dead-letters": 1}
    async with client_of(filled) as client:
        for path in await every_page(filled):
            text = (await client.get(path)).text
            assert "\u202e" not in text, path
            assert "\x1b" not in text, path
            if path in shown_times or path.endswith(("=model", "=created_by", "/record")):
                assert Page(text).text.count(SPELLED) >= shown_times.get(path, 1), path


async def test_a_page_asks_the_database_once_and_the_primary_never(filled: TestDbEngines) -> None:
    async with database_away() as primary, client_of(SimpleNamespace(write=primary, read=filled.read)) as client:
        for path in await every_page(filled):
            with statements_of(filled.read) as statements:
                assert (await client.get(path)).status_code == 200, path
            assert len(statements) == 1, path


async def test_bodies_are_shown_when_they_are_asked_for_and_their_beginning_alone(
    rwriter_engines: TestDbEngines,
) -> None:
    stored = record(request_body='{"a":{"b":[1,2.50]}}', response_body="x" * 70_000 + "end of it", status_code=500)
    await RequestStore(rwriter_engines).persist_completed([stored])
    path = f"/admin/requests/{stored.request_id}"
    async with client_of(rwriter_engines) as client:
        with statements_of(rwriter_engines.read) as statements:
            without, bodies = (await client.get(path)).text, (await client.get(f"{path}/bodies")).text
        found = (await client.get(f"/admin/find?id=resp_{stored.request_id}")).headers["location"]
    assert all("left(" in statement for statement in statements)
    assert "xxx" not in without
    assert f'href="{path}/bodies"' in without
    assert '{\n  "a": {\n    "b": [\n      1,\n      2.50\n    ]\n  }\n}' in Page(bodies).text
    assert "x" * 65_536 in bodies
    assert "x" * 65_537 not in bodies
    assert "The first 65,536 characters." in bodies
    assert found == path


async def test_a_request_is_found_by_the_id_its_owner_knows_and_unknown_ones_are_not(filled: TestDbEngines) -> None:
    async with client_of(filled) as client:
        by_owner = await client.get("/admin/find", params={"id": HOSTILE, "owner": HOSTILE})
        assert (by_owner.status_code, by_owner.headers["location"]) == (303, ROW)
        both = await client.get("/admin/find", params={"id": str(HOSTILE_RECORD.request_id), "owner": HOSTILE})
        assert both.headers["location"] == ROW
        for path in (
            f"/admin/find?id={quote(HOSTILE)}",
            "/admin/find?id=chatcmpl-1&owner=pager",
            f"/admin/find?id={HOSTILE_RECORD.request_id}&owner=pager",
            f"/admin/requests/{uuid.UUID(int=7)}",
            f"/admin/requests/{uuid.UUID(int=7)}/bodies",
            "/admin/requests/no-id",
            f"/admin/dead-letters/{uuid.UUID(int=7)}",
            f"/admin/dead-letters/{uuid.UUID(int=7)}/record",
            "/admin/nothing",
        ):
            answer = await client.get(path)
            assert (answer.status_code, "There is no" in answer.text or "Not Found" in answer.text) == (404, True), path


async def test_pages_follow_each_other_until_every_row_was_shown_once(filled: TestDbEngines) -> None:
    shown: list[str] = []
    following: str | None = "/admin/?created_by=pager&limit=25&status=completed"
    async with client_of(filled) as client:
        while following:
            page = Page((await client.get(following)).text)
            shown += [link.rpartition("/")[2] for link in page.links() if "/requests/" in link]
            following = next((str(a["href"]) for a in page.all("a") if a.get("rel") == "next"), None)
    assert shown == [str(each.request_id) for each in reversed(PAGED)]


async def test_every_filter_of_the_listing_is_a_field(rwriter_engines: TestDbEngines) -> None:
    store = RequestStore(rwriter_engines)
    wanted = record(model="m1", created_by="a b", metadata={"trace": "t-1", "n": 3})
    flying = new_request()
    await store.persist_completed([wanted, record(status_code=500)])
    await store.create_realtime(flying)

    async def shown(**params: Any) -> list[str]:
        links = Page((await client.get("/admin/", params=params)).text).links()
        return [link.rpartition("/")[2] for link in links if "/requests/" in link]

    async with client_of(rwriter_engines) as client:
        everything = await shown()
        assert len(everything) == 3
        only = [str(wanted.request_id)]
        assert await shown(created_by="a b", status="completed") == only
        assert await shown(models="m1, other") == only
        assert await shown(created_by="a b", metadata="trace=t-1\nn=3") == only
        assert await shown(created_by="a b", metadata="n=4") == []
        assert await shown(created_after="1h") == [str(flying.request_id)]
        assert len(await shown(created_before=STARTED.isoformat())) == 2
        assert await shown(tier=["flex", "none"]) == []
        assert len(await shown(tier=["priority", "none"])) == 3
        assert (await shown(active_first="1"))[0] == str(flying.request_id)
        assert await shown(limit="1", offset="1") == everything[1:2]
        form = Page((await client.get("/admin/")).text)
    fields = {given.get("name") for tag in ("input", "select", "textarea") for given in form.all(tag)}
    assert fields >= {"created_by", "status", "models", "created_after", "created_before", "tier", "metadata"}
    assert fields >= {"active_first", "limit", "offset"}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit must be in 1..1000"),
        ("limit=x", "limit: 'x' is no number"),
        ("offset=-1", "offset must be at least 0"),
        ("status=lost", "status must be one of"),
        ("created_after=soon", "created_after: 'soon' is no time"),
        ("created_after=99999999999d", "created_after: "),
        ("metadata=a%3D1", "metadata needs created_by or created_after"),
        ("metadata=a&created_by=b", "metadata: 'a' is no fact"),
        ("cursor=x", "cursor is not one that"),
    ],
)
async def test_a_field_that_cannot_be_used_is_named(filled: TestDbEngines, query: str, words: str) -> None:
    async with client_of(filled) as client:
        answer = await client.get(f"/admin/?{query}")
    assert answer.status_code == 400
    assert words in Page(answer.text).text


async def test_usage_is_a_table_with_bars_as_long_as_the_numbers(rwriter_engines: TestDbEngines) -> None:
    began = STARTED.replace(hour=12)
    rows = [request_at(began, input_tokens=10, output_tokens=5) for _ in range(3)]
    rows += [request_at(began, status_code=500), request_at(began + timedelta(days=1), model="other")]
    await RequestStore(rwriter_engines).persist_completed(rows)
    async with client_of(rwriter_engines) as client:
        page = Page((await client.get(f"/admin/usage?since={began.date()}&until=1d&by=day&by=model")).text)
        refused = await client.get("/admin/usage?until=never")
        nothing = await client.get("/admin/usage")
    bars = [(str(a["class"]), float(str(a["width"]))) for a in page.all("rect")]
    assert bars == [
        *[("done", 180.0), ("failed", 60.0), ("tokens", 240.0)],
        *[("done", 60.0), ("failed", 0.0), ("tokens", 0.0)],
    ]
    words = page.text.split()
    assert words[words.index("All") :][:5] == ["All", "5", "1", "30", "15"]
    assert f"{began.date()} · gpt-test" in page.text
    assert (refused.status_code, "until: 'never' is no time" in Page(refused.text).text) == (400, True)
    assert "Nothing began in this time." in nothing.text


async def test_a_database_that_is_away_is_a_503_in_words() -> None:
    paths = [
        "/",
        f"/requests/{uuid.UUID(int=7)}",
        "/dead-letters",
        f"/dead-letters/{uuid.UUID(int=7)}/record",
        "/usage",
    ]
    async with database_away() as engine, client_of(engine) as client:
        for path in paths:
            answer: httpx.Response = await client.get(f"/admin{path}")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path
            assert "The database does not answer." in answer.text
            assert "ConnectionRefusedError" in answer.text

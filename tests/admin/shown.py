"""Put rows on a database for the page to show, and read what a page shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any, Final

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request

from rwriter import CompletedRequest, RequestStore
from rwriter.admin import mount
from rwriter.engines import EngineProvider
from tests.support.records import STARTED, record

HOSTILE: Final = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}\u202e\x1b[31m"
"""A text that would run, break out of an attribute, be a template, or turn the line around."""

SPELLED: Final = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
"""The same as a page has to show it."""

HOSTILE_RECORD: Final = record(
    model=HOSTILE,
    created_by=HOSTILE,
    endpoint=HOSTILE,
    custom_id=HOSTILE,
    request_body=HOSTILE,
    response_body=HOSTILE,
    status_code=500,
    metadata={HOSTILE: HOSTILE},
)
PAGED: Final = [record(created_by="pager", started_at=STARTED - timedelta(seconds=70 - n)) for n in range(70)]
"""The rows of an owner who has more than a page of them, the oldest first."""


async def fill(store: RequestStore) -> None:
    """Store the records above, and bury a hostile one."""
    await store.persist_completed([HOSTILE_RECORD, *PAGED])
    await store.bury(HOSTILE_RECORD, sqlstate="<b>1", error=f"{HOSTILE}\nDETAIL: {HOSTILE}")


def let_in(_request: Request) -> bool:
    """Let everybody in."""
    return True


def client_of(engines: EngineProvider | AsyncEngine, **options: Any) -> httpx.AsyncClient:
    """Make a client of an app that has nothing but the page."""
    app = Starlette()
    mount(app, engines, **({"authorize": let_in} | options))
    return client_for(app)


def client_for(app: Any, *, root_path: str = "") -> httpx.AsyncClient:
    """Make a client of ``app``, which follows no redirects."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, root_path=root_path), base_url="http://test")


def request_at(moment: datetime, **changes: Any) -> CompletedRequest:
    """Return a record that began at ``moment`` and took a second."""
    return record(started_at=moment, completed_at=moment + timedelta(seconds=1), **changes)


class Page(HTMLParser):
    """The elements of a page in order, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element."""
        self.elements.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text += data

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        """Yield the attributes of every ``tag``."""
        yield from (attributes for name, attributes in self.elements if name == tag)

    def links(self) -> list[str]:
        """Return where the page's links lead."""
        return [str(attributes["href"]) for attributes in self.all("a")]

    def hidden(self) -> dict[str, str]:
        """Return the hidden fields of the page's last form."""
        return {str(a["name"]): str(a["value"]) for a in self.all("input") if a.get("type") == "hidden"}


def week() -> str:
    """Return a query for the usage of the time in which the records above began."""
    return f"since={(STARTED - timedelta(days=1)).date()}&until={(STARTED + timedelta(days=1)).date()}"

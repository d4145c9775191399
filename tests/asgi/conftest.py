"""A writer on a database of its own, and middlewares in front of apps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rwriter import RequestDetail, RequestFilter, RequestStore, RequestsWriter
from rwriter.asgi import CaptureMiddleware
from rwriter.asgi._types import ASGIApp
from rwriter.testing import TestDbEngines
from tests.support.asgi_client import owners

Capture = Callable[..., CaptureMiddleware]


@pytest.fixture
def store(rwriter_engines: TestDbEngines) -> RequestStore:
    return RequestStore(rwriter_engines)


@pytest.fixture
async def writer(store: RequestStore) -> AsyncIterator[RequestsWriter]:
    async with RequestsWriter(store) as writer:
        yield writer


@pytest.fixture
async def capture(writer: RequestsWriter) -> AsyncIterator[Capture]:
    """Makes middlewares, and closes them after the test."""
    made: list[CaptureMiddleware] = []

    def make(app: ASGIApp, **options: Any) -> CaptureMiddleware:
        made.append(CaptureMiddleware(app, writer, **({"attribute": owners} | options)))
        return made[-1]

    yield make
    for middleware in made:
        await middleware.aclose(timeout=0)


class Rows:
    """Return the rows once everything captured so far has arrived."""

    def __init__(self, store: RequestStore, writer: RequestsWriter) -> None:
        self._store = store
        self._writer = writer

    async def all(self, middleware: CaptureMiddleware) -> list[RequestDetail]:
        """Oldest first."""
        await middleware.aclose()
        await self._writer.flush(timeout=20)
        page = await self._store.list_requests(RequestFilter(limit=1_000))
        rows = [await self._store.get_request(row.id) for row in reversed(page.data)]
        return [row for row in rows if row is not None]

    async def one(self, middleware: CaptureMiddleware) -> RequestDetail:
        """The only one."""
        (row,) = await self.all(middleware)
        return row


@pytest.fixture
def rows(store: RequestStore, writer: RequestsWriter) -> Rows:
    return Rows(store, writer)

"""A writer without an event loop on a database of its own, and middlewares in front of WSGI apps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rwriter import RequestDetail, RequestFilter
from rwriter.testing import TestDbEngines
from rwriter.threaded import ThreadedWriter
from rwriter.wsgi import CaptureMiddleware
from rwriter.wsgi._types import WSGIApp
from tests.support.wsgi_client import owners

Capture = Callable[..., CaptureMiddleware]
Read = Callable[[], list[RequestDetail]]


@pytest.fixture
def writer(rwriter_engines: TestDbEngines) -> Iterator[ThreadedWriter]:
    with ThreadedWriter(rwriter_engines) as writer:
        yield writer


@pytest.fixture
def made() -> list[CaptureMiddleware]:
    """The middlewares of this test."""
    return []


@pytest.fixture
def capture(writer: ThreadedWriter, made: list[CaptureMiddleware]) -> Capture:
    """Makes middlewares."""

    def make(app: WSGIApp, **options: Any) -> CaptureMiddleware:
        made.append(CaptureMiddleware(app, writer, **({"attribute": owners} | options)))
        return made[-1]

    return make


@pytest.fixture
def recorded(writer: ThreadedWriter, made: list[CaptureMiddleware]) -> Read:
    """Returns the rows of everything that was answered so far, the oldest first."""

    def read() -> list[RequestDetail]:
        assert all(middleware.flush(timeout=30) for middleware in made)
        writer.flush(timeout=30)
        found = writer.store.list_requests(RequestFilter(limit=1000)).data
        rows = [writer.store.get_request(row.id) for row in reversed(found)]
        return [row for row in rows if row is not None]

    return read

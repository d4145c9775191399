"""A WSGI app with everything around it: recorded and read back, opened by the first request of each process."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from rwriter import RwriterError
from rwriter.asgi import CaptureOptions as AsgiCaptureOptions
from rwriter.testing import TestDbEngines
from rwriter.wsgi import CaptureMiddleware, CaptureOptions, RecordedApp
from rwriter.wsgi._types import Environ, StartResponse
from tests.support.wsgi_client import Asked, owners

CHAT = "/v1/chat/completions"
ANSWER = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[]}'


def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Answer a chat completion, and to everything else that it is the app's own."""
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    yield (
        b'{"id": "chatcmpl-1", "object": "chat.completion", "choices": []}' if CHAT in environ["PATH_INFO"] else b"own"
    )


def test_a_call_is_read_back_at_once_and_what_was_closed_opens_anew(rwriter_engines: TestDbEngines) -> None:
    recorded = RecordedApp(app, attribute=owners).on(rwriter_engines)
    for calls in (1, 2):
        with recorded:
            asked = Asked(recorded, path=CHAT)
            found = Asked(recorded, path=f"{CHAT}/chatcmpl-1", method="GET")
            assert (found.status, found.body, asked.status) == (200, ANSWER, 200)
            one = f"/v1/responses/resp_{asked.environ['rwriter.request_id']}"
            assert Asked(recorded, path=one, method="GET", key=None).status == 401
            assert Asked(recorded, path=one, method="GET", key="sk-bob").status == 404
            events = Asked(recorded, path=one, method="GET", QUERY_STRING="stream=true")
            assert events.headers["content-type"].startswith("text/event-stream")
            assert len(events.pieces) >= 1
            assert b"response.completed" in events.body
            assert Asked(recorded, path="/elsewhere", method="GET").body == b"own"
            recorded.flush(timeout=30)
            assert recorded.store.list_requests().total_count == calls
            assert recorded.writer.stats.persisted == 1


def test_a_reader_that_leaves_a_stream_ends_it(rwriter_engines: TestDbEngines) -> None:
    with RecordedApp(app, rwriter_engines, attribute=owners) as recorded:
        asked = Asked(recorded, path=CHAT)
        one = f"/v1/responses/resp_{asked.environ['rwriter.request_id']}"
        Asked(recorded, path=one, method="GET", QUERY_STRING="stream=true", pieces=0)
        # the loop goes on, with nothing left of it
        assert Asked(recorded, path=one, method="GET").status == 200


def test_without_its_routes_the_apps_own_answer_and_options_reach_their_place(rwriter_engines: TestDbEngines) -> None:
    options: CaptureOptions = {"paths": ["/elsewhere"]}
    with RecordedApp(app, rwriter_engines, attribute=owners, routes=False, capture=options, name="audit") as recorded:
        assert Asked(recorded, path="/v1/responses/resp_1", method="GET").body == b"own"
        assert "x-rwriter-id" in Asked(recorded, path="/elsewhere").headers
        assert "x-rwriter-id" not in Asked(recorded, path=CHAT).headers
        assert recorded.writer.on_loop()[0].name == "audit"


def test_a_database_that_is_not_named_is_said_by_each_request(empty_database: str) -> None:
    recorded = RecordedApp(app, attribute=owners)
    for _ in range(2):
        with pytest.raises(RwriterError, match="RWRITER_DATABASE_URL"):
            Asked(recorded)
    recorded.close()


def test_its_options_for_the_middleware_are_the_middlewares_own() -> None:
    own = set(inspect.signature(CaptureMiddleware).parameters) - {"app", "writer", "attribute"}
    assert set(CaptureOptions.__annotations__) == own
    # and those are the other middleware's, but for the background responses that WSGI has not
    background = {"background", "begin_timeout", "background_timeout", "background_limit"}
    assert own | background == set(AsgiCaptureOptions.__annotations__)

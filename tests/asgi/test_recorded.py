"""An app with everything around it: recorded and read back, opened and closed by the server's lifespan."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from rwriter import RwriterError, SchemaOutdated, Spool, WriterNotOpen
from rwriter.asgi import CaptureMiddleware, CaptureOptions, RecordedApp
from rwriter.asgi._types import Message, Receive, Scope, Send
from rwriter.testing import TestDbEngines

KEY = {"authorization": "Bearer sk-test"}
CALL: dict[str, Any] = {"url": "/v1/chat/completions", "headers": KEY, "json": {"model": "m", "messages": []}}


def owner_of(api_key: str, _scope: Any) -> str | None:
    return {"sk-test": "tenant-7"}.get(api_key)


def make_app(told: list[str] | None = None) -> Starlette:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        (told if told is not None else []).append("started")
        yield
        (told if told is not None else []).append("ended")

    async def complete(request: Request) -> Response:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
        model = (await request.json())["model"]
        return JSONResponse({"id": "chatcmpl-1", "object": "chat.completion", "model": model, "choices": [choice]})

    async def own(_request: Request) -> Response:
        return JSONResponse({"own": True})

    routes = [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/responses/{id}", own),
        Route("/openapi.json", own),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def states(engines: TestDbEngines) -> list[str]:
    async with engines.read.connect() as connection:
        found = await connection.execute(text("SELECT state FROM requests"))
        return [str(state) for state in found.scalars()]


def test_a_call_is_read_back_at_once_and_stored_when_the_lifespan_ends(rwriter_engines: TestDbEngines) -> None:
    told: list[str] = []
    recorded = RecordedApp(make_app(told), attribute=owner_of).on(rwriter_engines)
    for lifespan in (1, 2):
        # a writer is used once, so that a second lifespan needs another
        with TestClient(recorded) as client:
            answer = client.post(**CALL)
            found = client.get("/v1/chat/completions/chatcmpl-1", headers=KEY)
            assert found.json() == answer.json()
            assert client.get(f"/v1/responses/{answer.headers['x-rwriter-id']}").status_code == 401
        assert asyncio.run(states(rwriter_engines)) == ["completed"] * lifespan
    assert told == ["started", "ended"] * 2


def test_a_spool_serves_one_lifespan_after_the_other(rwriter_engines: TestDbEngines, tmp_path: Path) -> None:
    recorded = RecordedApp(make_app(), rwriter_engines, attribute=owner_of, spool=Spool(tmp_path / "spool"))
    for calls in (1, 2):
        with TestClient(recorded) as client:
            assert client.post(**CALL).status_code == 200
        assert asyncio.run(states(rwriter_engines)) == ["completed"] * calls


async def test_without_a_server_it_is_opened_by_hand_and_its_flush_stores_what_was_answered(
    rwriter_engines: TestDbEngines,
) -> None:
    recorded = RecordedApp(make_app(), rwriter_engines, attribute=owner_of, linger=60)
    async with AsyncClient(transport=ASGITransport(recorded), base_url="http://test") as client:
        with pytest.raises(WriterNotOpen, match="async with"):
            await client.post(**CALL)
        async with recorded:
            assert (await client.post(**CALL)).status_code == 200
            await recorded.flush(timeout=30)
            assert await states(rwriter_engines) == ["completed"]
            assert (await recorded.store.list_requests()).total_count == 1
        with pytest.raises(WriterNotOpen):
            _ = recorded.store


async def test_opened_a_second_time_it_says_so_and_goes_on_as_it_was(rwriter_engines: TestDbEngines) -> None:
    recorded = RecordedApp(make_app(), rwriter_engines, attribute=owner_of, linger=60)
    async with AsyncClient(transport=ASGITransport(recorded), base_url="http://test") as client, recorded:
        with pytest.raises(RwriterError, match="open"):
            await recorded.__aenter__()
        assert (await client.post(**CALL)).status_code == 200
    assert await states(rwriter_engines) == ["completed"]


async def test_without_its_routes_the_apps_own_answer_and_its_openapi_is_always_its_own(
    rwriter_engines: TestDbEngines,
) -> None:
    for routes, status in ((False, 200), (True, 401)):
        recorded = RecordedApp(make_app(), rwriter_engines, attribute=owner_of, routes=routes)
        async with recorded, AsyncClient(transport=ASGITransport(recorded), base_url="http://test") as client:
            assert (await client.get("/v1/responses/resp_1")).status_code == status
            assert (await client.get("/openapi.json")).json() == {"own": True}


async def test_options_of_the_middleware_and_of_the_writer_reach_them(rwriter_engines: TestDbEngines) -> None:
    recorded = RecordedApp(
        make_app(), rwriter_engines, attribute=owner_of, capture={"paths": ["/elsewhere"]}, name="audit"
    )
    async with recorded, AsyncClient(transport=ASGITransport(recorded), base_url="http://test") as client:
        assert "x-rwriter-id" not in (await client.post(**CALL)).headers
        assert recorded.writer.name == "audit"


def test_the_environment_names_the_database_when_nothing_else_does(
    rwriter_engines: TestDbEngines, rwriter_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RecordedApp(make_app(), attribute=owner_of)
    with pytest.raises(RwriterError, match="RWRITER_DATABASE_URL"), TestClient(recorded):
        pass
    monkeypatch.setenv("RWRITER_DATABASE_URL", rwriter_database)
    with TestClient(recorded) as client:
        assert client.post(**CALL).status_code == 200
    assert asyncio.run(states(rwriter_engines)) == ["completed"]


async def lived(app: RecordedApp) -> list[str]:
    """Play a server's lifespan. Return the types of what it was told."""
    said: list[str] = []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(messages)}

    async def send(message: Message) -> None:
        said.append(message["type"])

    try:
        await app({"type": "lifespan"}, receive, send)
    except (SchemaOutdated, RuntimeError) as exc:
        said.append(type(exc).__name__)
    return said


async def test_what_keeps_it_from_opening_is_told_to_the_server(empty_database: str) -> None:
    recorded = RecordedApp(make_app(), empty_database, attribute=owner_of)
    assert await lived(recorded) == ["lifespan.startup.failed", "SchemaOutdated"]


async def test_an_app_without_a_lifespan_gets_one_and_one_that_does_not_start_is_closed(
    rwriter_engines: TestDbEngines,
) -> None:
    async def bare(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError(scope["type"])

    async def broken(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    async def fallen(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError

    complete = ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    for app, told in (
        (bare, complete),
        (broken, ["lifespan.startup.failed"]),
        (fallen, [*complete[:1], "RuntimeError"]),
        (make_app(), complete),
    ):
        recorded = RecordedApp(app, rwriter_engines, attribute=owner_of)
        assert await lived(recorded) == told
        with pytest.raises(WriterNotOpen):
            _ = recorded.writer


def test_its_options_for_the_middleware_are_the_middlewares_own() -> None:
    own = set(inspect.signature(CaptureMiddleware).parameters) - {"app", "writer", "attribute"}
    assert set(CaptureOptions.__annotations__) == own

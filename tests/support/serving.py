"""An app under uvicorn, on the test's own event loop, and clients for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from openai import AsyncOpenAI

from rwriter.asgi._types import ASGIApp
from tests.support.asgi_client import KEY
from tests.support.driving import eventually


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The URL under which ``app`` answers."""
    # Any: its scopes are closed types, ours are what comes
    application: Any = app
    config = uvicorn.Config(
        application, port=0, log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or task.done())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def official_client(app: ASGIApp, key: str = KEY) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own client of ``app`` with alice's key or another."""
    async with served(app) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


@contextlib.asynccontextmanager
async def plain_client(app: ASGIApp, key: str | None = KEY) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of ``app``, without a server between."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    application: Any = app
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        yield client

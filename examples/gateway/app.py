"""The gateway: FastAPI in front of a model server, every call recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import httpx
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from examples.gateway.probes import probes
from rwriter import DbEngines, RequestStore, RequestsWriter
from rwriter.asgi import CaptureMiddleware, api_key_of, responses_app

FORWARDED: Final = ("/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages")

_OF_THE_CONNECTION: Final = frozenset(
    {"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding", "upgrade"}
)
_OF_THE_CLIENT: Final = _OF_THE_CONNECTION | {"authorization", "x-api-key", "api-key"}


def make_app(*, database_url: str, models: httpx.AsyncClient, tenants: Mapping[str, str]) -> FastAPI:
    """Make the gateway. ``models`` is a client of the model server, ``tenants`` says who owns each API key."""
    # -- what rwriter needs begins here
    engines = DbEngines.from_url(database_url)
    store = RequestStore(engines)
    writer = RequestsWriter(store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with engines, writer, models:
            yield

    async def tenant_of(api_key: str, _scope: Any) -> str | None:
        return tenants.get(api_key)

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(CaptureMiddleware, writer, attribute=tenant_of)
    app.include_router(probes(writer))
    app.include_router(forwarding(models, tenants))
    app.mount("/", responses_app(store, writer=writer, attribute=tenant_of))
    # -- what rwriter needs ends here
    return app


def models_at(url: str, *, key: str) -> httpx.AsyncClient:
    """Make a client of the model server at ``url``, which wants ``key``."""
    timeout = httpx.Timeout(600, connect=5)
    models = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=timeout)
    # what the gateway's client does not say, httpx is not to say for it: the answer could come compressed
    for name in ("accept", "accept-encoding", "user-agent"):
        del models.headers[name]
    return models


def forwarding(models: httpx.AsyncClient, tenants: Mapping[str, str]) -> APIRouter:
    """Make the gateway's routes: a client with a key gets the model server's answer, as it comes."""
    router = APIRouter()

    async def forward(request: Request) -> Response:
        if tenants.get(api_key_of(request.scope) or "") is None:
            return _error(HTTPStatus.UNAUTHORIZED, "authentication_error", "This gateway does not know your API key.")
        headers = [(name, value) for name, value in request.headers.items() if name not in _OF_THE_CLIENT]
        url = httpx.URL(request.url.path, query=request.url.query.encode())
        try:
            question = models.build_request("POST", url, headers=headers, content=await request.body())
            answer = await models.send(question, stream=True)
        except httpx.HTTPError:
            return _error(HTTPStatus.BAD_GATEWAY, "upstream_error", "The model server does not answer.")
        return _pass_on(answer)

    for path in FORWARDED:
        router.add_api_route(path, forward, methods=["POST"], response_model=None)
    return router


def _pass_on(answer: httpx.Response) -> Response:
    response = StreamingResponse(_chunks(answer), answer.status_code)
    # its list, not a mapping: a header may come twice
    response.raw_headers = [
        (name.lower(), value)
        for name, value in answer.headers.raw
        if name.lower() == b"content-length" or name.lower().decode() not in _OF_THE_CONNECTION
    ]
    return response


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        # raw: a compressed body goes on as it is
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)

"""A gateway on a database of its own before a fake model server, both under uvicorn, and clients of both kinds."""

from __future__ import annotations

import contextlib
import inspect
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from anthropic import Anthropic, AsyncAnthropic
from fastapi import FastAPI
from openai import AsyncOpenAI, OpenAI

from examples.gateway.app import forwarding, make_app, models_at
from examples.gateway.model_server import KEY
from examples.gateway.serving import Serving
from rwriter import RequestStore
from rwriter.pytest_plugin import Databases
from rwriter.testing import TestDbEngines
from tests.gateway.watching import Keys, Watched, owner_of


@pytest.fixture(scope="session")
def watched() -> Watched:
    """The model server's application, and the questions that have reached it."""
    return Watched()


@pytest.fixture(scope="session")
def models(watched: Watched) -> Iterator[Serving]:
    with Serving(watched) as server:
        yield server


@pytest.fixture(scope="session")
def rwriter_database(_rwriter_databases: Databases) -> Iterator[str]:
    """One database for all these tests; each has tenants of its own in it."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


@pytest.fixture(scope="session")
def tenants() -> dict[str, str]:
    """Return the owner of every key, for both gateways."""
    return {}


@pytest.fixture
def keys(tenants: dict[str, str]) -> Keys:
    made = Keys(f"sk-amber-{uuid.uuid4().hex}", f"sk-birch-{uuid.uuid4().hex}")
    tenants.update({key: owner_of(key) for key in made})
    return made


@pytest.fixture(scope="session")
def gateway(rwriter_database: str, models: Serving, tenants: dict[str, str]) -> Iterator[Serving]:
    app = make_app(database_url=rwriter_database, models=models_at(models.url, key=KEY), tenants=tenants)
    with Serving(app) as server:
        yield server


@pytest.fixture(scope="session")
def bare_gateway(models: Serving, tenants: dict[str, str]) -> Iterator[Serving]:
    """The same gateway without rwriter."""
    client = models_at(models.url, key=KEY)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(forwarding(client, tenants))
    with Serving(app) as server:
        yield server


@pytest.fixture
def store(rwriter_engines: TestDbEngines) -> RequestStore:
    return RequestStore(rwriter_engines)


@pytest.fixture(params=["sync", "async"])
async def client(request: pytest.FixtureRequest, gateway: Serving, keys: Keys) -> AsyncIterator[OpenAI | AsyncOpenAI]:
    """OpenAI's client, of either kind, with the key of tenant ``amber``."""
    kind = OpenAI if request.param == "sync" else AsyncOpenAI
    made = kind(base_url=f"{gateway.url}/v1", api_key=keys.amber, max_retries=0)
    yield made
    await _close(made)


@pytest.fixture(params=["sync", "async"])
async def claude(
    request: pytest.FixtureRequest, gateway: Serving, keys: Keys
) -> AsyncIterator[Anthropic | AsyncAnthropic]:
    """Anthropic's client, of either kind, with the same key."""
    kind = Anthropic if request.param == "sync" else AsyncAnthropic
    made = kind(base_url=gateway.url, api_key=keys.amber, max_retries=0)
    yield made
    await _close(made)


@pytest.fixture
def amber(gateway: Serving, keys: Keys) -> Iterator[OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=keys.amber, max_retries=0) as made:
        yield made


@pytest.fixture
def birch(gateway: Serving, keys: Keys) -> Iterator[OpenAI]:
    """A client of another tenant."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=keys.birch, max_retries=0) as made:
        yield made


@pytest.fixture
async def http(gateway: Serving, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client with the key of ``amber``."""
    async with httpx.AsyncClient(base_url=gateway.url, headers=_bearer(keys.amber), timeout=30) as made:
        yield made


@pytest.fixture
async def http_birch(gateway: Serving, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, headers=_bearer(keys.birch), timeout=30) as made:
        yield made


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def _close(made: Any) -> None:
    closing = made.close()
    if inspect.isawaitable(closing):
        await closing

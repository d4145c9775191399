"""What a deploy sees of the gateway: it starts, it starts without a database, or it says why it does not."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text

from examples.gateway.app import make_app, models_at
from examples.gateway.probes import probes
from examples.gateway.serving import Serving
from rwriter import DbEngines, RequestsWriter, RwriterError, Spool
from rwriter.testing import PostgresServer
from tests.docs.pages import ROOT, noted
from tests.support.driving import eventually
from tests.support.records import record

NOWHERE = "postgresql://gateway@127.0.0.1:1/gateway"


@contextlib.asynccontextmanager
async def deployed(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway, started as a server starts it, and a client for its probes."""
    app = make_app(database_url=database_url, models=models_at("http://127.0.0.1:1", key="none"), tenants={})
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def readiness(client: httpx.AsyncClient) -> tuple[int, Any]:
    answer = await client.get("/readyz")
    return answer.status_code, answer.json()


async def test_the_gateway_is_alive_and_ready(gateway: Serving) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.get("/livez")).status_code == 200
        status, health = await readiness(client)
    assert (status, health["state"], health["error"], health["spooled"]) == (200, "ok", None, 0)


async def test_with_a_wrong_password_it_does_not_start_and_says_why_in_the_servers_words() -> None:
    with PostgresServer() as server:
        rules = server.data_dir / "pg_hba.conf"
        rules.write_text(f"host all gateway 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        async with DbEngines.from_url(server.url()) as engines, engines.write.begin() as connection:
            await connection.execute(text("CREATE ROLE gateway LOGIN PASSWORD 'right'"))
            await connection.execute(text("SELECT pg_reload_conf()"))
        url = make_url(server.url()).set(username="gateway", password="wrong", host="127.0.0.1")  # noqa: S106 -- made up
        with pytest.raises(RwriterError, match=r'password authentication failed for user "gateway".*pg_hba\.conf'):
            async with deployed(url.render_as_string(hide_password=False)):
                pass


async def test_without_a_database_it_starts_and_is_ready_and_says_that_it_holds_records() -> None:
    async with deployed(NOWHERE) as client:
        await eventually(lambda: says(client, "holding"))
        status, health = await readiness(client)
        assert (await client.get("/livez")).status_code == 200
    assert (status, health["state"]) == (200, "holding")
    assert health["error"].startswith("ConnectionRefusedError")


async def test_with_a_spool_it_says_that_records_go_there_and_a_closed_writer_is_not_ready(tmp_path: Path) -> None:
    app, engines = FastAPI(), DbEngines.from_url(NOWHERE)
    writer = RequestsWriter(engines, spool=Spool(tmp_path), max_retries=0, drain_timeout=0.1)
    app.include_router(probes(writer))
    async with engines, client_of(app) as client:
        assert (await readiness(client))[0] == 503
        async with writer:
            await writer.send(record())
            await eventually(lambda: writer.stats.spooled == 1)
            status, health = await readiness(client)
            assert (status, health["state"], health["spooled"]) == (200, "spooling", 1)
        status, health = await readiness(client)
    assert (status, health["state"]) == (503, "failed")


async def says(client: httpx.AsyncClient, state: str) -> bool:
    return bool((await readiness(client))[1]["state"] == state)


def test_the_page_on_operations_shows_the_examples_own_routes() -> None:
    source = (ROOT / "examples/gateway/probes.py").read_text(encoding="utf-8")
    assert noted(ROOT / "docs/how-to/operations.md", "example: probes") in source

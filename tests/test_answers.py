"""The answers of the library as the answers of FastAPI routes, and as fields of pydantic models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError

from rwriter import Health, RequestDetail, RequestPage, RequestStore, RequestsWriter, WriterStats
from rwriter.store import RequestSummary
from tests.support.records import record

SINCE = datetime(2026, 3, 4, tzinfo=UTC)


class Report(BaseModel):
    """A model of a service's own."""

    health: Health
    latest: RequestDetail | None = None


@pytest.fixture
async def client(store: RequestStore) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service whose routes answer with what the library does."""
    app = FastAPI()
    one = record(metadata={"team": "red"}, input_tokens=3)
    await store.persist_completed([one])

    @app.get("/detail")
    async def detail() -> RequestDetail | None:
        return await store.get_request(one.request_id)

    @app.get("/page")
    async def page() -> RequestPage:
        return await store.list_requests()

    @app.get("/stats")
    async def stats() -> WriterStats:
        return RequestsWriter(store).stats

    @app.get("/health")
    async def health() -> Health:
        return RequestsWriter(store).health

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client


async def test_routes_answer_with_every_field(client: httpx.AsyncClient) -> None:
    detail = (await client.get("/detail")).json()
    assert set(detail) == set(RequestDetail.__struct_fields__)
    assert (detail["status"], detail["metadata"], detail["input_tokens"]) == ("completed", {"team": "red"}, 3)
    page = (await client.get("/page")).json()
    assert page["total_count"] == 1
    assert set(page["data"][0]) == set(RequestSummary.__struct_fields__)
    stats = (await client.get("/stats")).json()
    assert stats == dict.fromkeys(WriterStats.__struct_fields__, 0)
    health = (await client.get("/health")).json()
    assert (health["state"], health["pending"]) == ("failed", 0)


async def test_the_openapi_document_has_their_schemas(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert {"RequestDetail", "RequestPage", "RequestSummary", "WriterStats", "Health"} <= set(schemas)
    states = ["processing", "claimed", "pending", "completed", "failed", "canceled"]
    assert schemas["RequestDetail"]["properties"]["status"]["enum"] == states
    assert schemas["Health"]["properties"]["state"]["enum"] == ["ok", "spooling", "holding", "failed"]


def test_a_model_takes_them_as_they_are_and_from_json() -> None:
    fields: dict[str, Any] = {"state": "ok", "error": None, "pending": 0, "oldest_age": 0.0, "spooled": 0}
    health = Health(since=SINCE, **fields)
    report = Report(health=health)
    assert report.health is health
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert Report.model_validate({"health": {"since": SINCE, **fields}}) == report
    assert json.loads(report.model_dump_json())["health"]["since"] == "2026-03-04T00:00:00Z"
    with pytest.raises(ValidationError, match="state"):
        Report.model_validate({"health": {"since": SINCE, **fields, "state": "fine"}})

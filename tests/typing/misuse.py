"""Mistakes that the type checker must find: each line with a comment is one, and the comment says which.

mypy's own rule against comments without an error holds this file as much as the test beside it. Nothing here is run.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import CompletedRequest, DbEngines, EngineProvider, NewRequest, RequestFilter, RequestStore, RequestsWriter


class WriteOnly:
    """No provider: nothing to read from."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.write = engine


class HalfASink:
    """No sink: it cannot bury, nor say who it is."""

    async def persist_completed(self, records: list[CompletedRequest]) -> None:
        """Take them."""


class Blocking:
    """No provider: its engines are not asynchronous."""

    def __init__(self, engine: Engine) -> None:
        self.write = engine
        self.read = engine


async def mistakes(writer: RequestsWriter, store: RequestStore, engine: AsyncEngine, one: CompletedRequest) -> None:
    writer.send(one)  # type: ignore[unused-coroutine]
    store.persist_completed([one])  # type: ignore[unused-coroutine]
    await writer.send(one, wait="stored")  # type: ignore[arg-type]
    await writer.send({"request_id": one.request_id})  # type: ignore[arg-type]
    await store.persist_completed(one)  # type: ignore[arg-type]
    await store.fail_stale(600)  # type: ignore[arg-type]
    (await store.get_request(one.request_id)).body  # type: ignore[union-attr]  # noqa: B018
    (await store.list_requests()).data[0].response_body  # type: ignore[attr-defined]  # noqa: B018
    RequestsWriter(HalfASink())  # type: ignore[arg-type]
    RequestsWriter(engine, 100)  # type: ignore[call-arg]
    RequestsWriter(engine, batchsize=100)  # type: ignore[call-arg]
    RequestFilter(limit="10")  # type: ignore[arg-type]
    one.model = "other"  # type: ignore[misc]
    writer.stats.dropped = 0  # type: ignore[misc]


def no_providers(engine: AsyncEngine, blocking: Engine) -> list[EngineProvider]:
    RequestStore(WriteOnly(engine))  # type: ignore[arg-type]
    RequestStore(Blocking(blocking))  # type: ignore[arg-type]
    DbEngines(blocking)  # type: ignore[arg-type]
    DbEngines("postgresql://localhost/db")  # type: ignore[arg-type]
    return [blocking]  # type: ignore[list-item]


def no_records(now: datetime = datetime.now(UTC)) -> None:  # noqa: B008
    CompletedRequest(  # type: ignore[call-arg]
        request_id=uuid.uuid4(),
        status_code="200",  # type: ignore[arg-type]
        request_body=b"{}",  # type: ignore[arg-type]
        response_body="{}",
        model="m",
        endpoint="/v1/responses",
        api_key="k",
        created_by="me",
        started_at=timedelta(0),  # type: ignore[arg-type]
    )
    NewRequest(uuid.uuid4(), "{}", "m", "e", "POST", "/", "k", "me")  # type: ignore[call-arg]
    print(now)  # noqa: T201

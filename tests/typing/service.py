"""A service's own code as it would be written, for the type checker to accept. Nothing here is run."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import assert_type

from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import selectinload
from starlette.applications import Starlette
from starlette.requests import Request as HTTPRequest
from starlette.responses import PlainTextResponse, Response

from rwriter import (
    ChannelFull,
    CompletedRequest,
    DbEngines,
    EngineProvider,
    Erasure,
    NewRequest,
    PersistResult,
    Purge,
    RecordSink,
    RequestDetail,
    RequestFilter,
    RequestPage,
    RequestStore,
    RequestSummary,
    RequestsWriter,
    RwriterError,
    UsageRow,
    WriterStats,
    new_request_id,
)
from rwriter.admin import Authorize, mount
from rwriter.archive import Archived, ArchiveErasure, ArchiveStore, archive_partitions
from rwriter.ledger import Finding, LedgerHead, audit, heads_in, use_ledger_secret
from rwriter.migrate import check, current, upgrade
from rwriter.orm import Request, RequestTemplate
from rwriter.schema import requests
from rwriter.testing import PostgresServer, TcpProxy, TestDbEngines
from rwriter.threaded import SyncRequestStore, ThreadedWriter


class App:
    """Stands for the web framework."""

    writer: RequestsWriter
    store: RequestStore


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    async with DbEngines.from_url("postgresql://localhost/db", schema="audit", pool_size=3) as engines:
        app.store = RequestStore(engines)
        async with RequestsWriter(app.store, batch_size=200, linger=0.01, name="audit", ledger=True) as app.writer:
            yield


async def audited(engines: EngineProvider, log: Iterable[str]) -> bool:
    use_ledger_secret(b"32 random bytes")
    report = await audit(engines, since=datetime.now(UTC) - timedelta(days=7), bodies=True, heads=heads_in(log))
    assert_type(report.findings, list[Finding])
    assert_type(report.heads, list[LedgerHead])
    return report.exit_code == 0


async def handle(app: App, body: str, answer: str) -> None:
    started = datetime.now(UTC)
    finished = CompletedRequest(
        request_id=new_request_id(),
        status_code=200,
        request_body=body,
        response_body=answer,
        model="gpt-5",
        endpoint="/v1/responses",
        api_key="sk-1",
        created_by="tenant",
        started_at=started,
        completed_at=started + timedelta(seconds=1),
    )
    try:
        app.writer.send_nowait(finished)
    except ChannelFull:
        await app.writer.send(finished, wait="committed")
    except RwriterError as exc:
        assert_type(exc, RwriterError)
    assert_type(app.writer.get(finished.request_id), CompletedRequest | None)
    assert_type(app.writer.stats, WriterStats)
    assert_type(app.writer.stats.dropped, int)
    assert_type(finished.custom_id, str | None)


async def read(store: RequestStore, request_id: uuid.UUID) -> str | None:
    page = await store.list_requests(RequestFilter(created_by="tenant", models=["gpt-5"], limit=10), consistent=True)
    assert_type(page, RequestPage)
    assert_type(page.next_cursor, str | None)
    for row in page.data:
        assert_type(row, RequestSummary)
        assert_type(row.id, uuid.UUID)
        assert_type(row.duration_ms, float | None)
    now = datetime.now(UTC)
    for group in await store.usage(since=now - timedelta(days=7), until=now, by=("model", "status")):
        assert_type(group, UsageRow)
        assert_type(group.duration_p95_ms, float | None)
    assert_type(await store.get_request(request_id, body_limit=100), RequestDetail | None)
    detail = await store.get_request(request_id)
    assert_type(detail, RequestDetail | None)
    return detail.response_body if detail is not None else None


async def write(store: RequestStore, record: CompletedRequest, new: NewRequest) -> int:
    await store.create_realtime(new)
    result = await store.persist_completed(record for _ in range(2))
    assert_type(result, PersistResult)
    assert_type(await store.delete_request(record.request_id, created_by="tenant"), bool)
    assert_type(await store.fail_stale(timedelta(minutes=10)), int)
    assert_type(await store.purge(datetime.now(UTC), bodies_only=True, budget=timedelta(minutes=5)), Purge)
    assert_type(await store.erase("tenant"), Erasure)
    return result.inserted + result.updated + result.skipped


async def own_task(engine: AsyncEngine, shutdown: asyncio.Event) -> None:
    writer = RequestsWriter(engine)
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run(shutdown))
        await writer.wait_open(timeout=5)
        await writer.flush(timeout=1.5)
    await writer.aclose(timeout=3)


class WithAttributes:
    """A provider of the service's own, with plain attributes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.write = engine
        self.read = engine


@dataclass(frozen=True)
class Frozen:
    """One that cannot be changed."""

    write: AsyncEngine
    read: AsyncEngine


class WithProperties:
    """One that finds its engines when they are asked for."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @property
    def write(self) -> AsyncEngine:
        return self._engine

    @property
    def read(self) -> AsyncEngine:
        return self._engine.execution_options(postgresql_readonly=True)


def stores(engine: AsyncEngine) -> list[RequestStore]:
    providers: list[EngineProvider | AsyncEngine] = [
        engine,
        WithAttributes(engine),
        Frozen(engine, engine),
        WithProperties(engine),
        DbEngines(engine),
        DbEngines(engine, replica=engine),
        TestDbEngines(engine, schema="audit"),
    ]
    return [RequestStore(provider, schema="audit") for provider in providers]


class OwnSink:
    """A sink of the service's own, which knows nothing of the library's classes."""

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        taken = frozenset(record.request_id for record in records)
        return PersistResult(len(taken), 0, 0, taken)

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        print(record, sqlstate, error)  # noqa: T201

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        return set(ids)

    async def check_schema(self) -> None:
        """Nothing to check."""

    async def identity(self) -> str:
        return "own"


def sinks(engine: AsyncEngine) -> list[RequestsWriter]:
    found: list[RecordSink] = [RequestStore(engine), OwnSink()]
    assert_type(RequestsWriter(OwnSink()).sink, RecordSink)
    return [RequestsWriter(sink, name="audit") for sink in found]


def without_a_loop(engines: TestDbEngines, request_id: uuid.UUID) -> None:
    with ThreadedWriter(engines, batch_size=10) as writer:
        assert_type(writer.store, SyncRequestStore)
        assert_type(writer.store.get_request(request_id, timeout=5), RequestDetail | None)
        assert_type(writer.store.list_requests(RequestFilter(created_by="tenant")), RequestPage)


async def migrate(engine: AsyncEngine) -> None:
    await upgrade(engine, schema="audit")
    await upgrade(DbEngines(engine))
    await check("postgresql://localhost/db")
    assert_type(await current(engine), str | None)


def page(app: Starlette, api: FastAPI, engine: AsyncEngine) -> None:
    async def by_cookie(request: HTTPRequest) -> bool | Response:
        return request.cookies.get("session") == "admin" or PlainTextResponse("sign in", 401)

    checks: list[Authorize] = [by_cookie, lambda request: request.url.hostname == "localhost"]
    mount(app, DbEngines(engine), authorize=checks[0], path="/back-office", schema="audit")
    mount(api, engine, authorize=checks[1])


async def session(engine: AsyncEngine) -> None:
    query = (
        select(Request)
        .join(Request.template)
        .options(selectinload(Request.template))
        .where(Request.created_by == "tenant", RequestTemplate.path.like("/v1/%"), Request.failed_at.is_(None))
        .order_by(Request.created_at.desc())
    )
    async with AsyncSession(engine) as open_session:
        for found in await open_session.scalars(query):
            assert_type(found.id, uuid.UUID)
            assert_type(found.error, str | None)
            assert_type(found.template, RequestTemplate | None)
        await open_session.execute(select(requests.c.id, requests.c.state))


async def faults() -> None:
    with PostgresServer(settings={"fsync": "off"}) as server:
        assert_type(server.url("db"), str)
        async with TcpProxy("127.0.0.1", server.port) as proxy:
            proxy.stall()
            assert_type(proxy.url(server.url()), str)


async def archive(engines: DbEngines, where: str) -> int:
    fates: list[Archived] = await archive_partitions(engines, datetime.now(UTC), where, cuts=32)
    with ArchiveStore(where, threads=2) as store:
        found: RequestDetail | None = await store.get_request(new_request_id(), created_by="tenant")
        page: RequestPage = await store.list_requests(RequestFilter(created_by="tenant"))
        gone: ArchiveErasure = await store.erase("tenant")
    return len(fates) + gone.requests + page.total_count + (found is not None)

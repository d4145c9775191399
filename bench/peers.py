"""The ways to store the same finished requests, each opened once and kept open: connections and statements are warm."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from uuid_utils.compat import uuid7

from bench.database import Database
from rwriter import CompletedRequest, RequestsWriter
from rwriter.orm import Request, RequestTemplate
from rwriter.records import utf8_size
from rwriter.schema import NIL_DAEMON, REALTIME_TIER

BATCH: Final = 100
DEFAULT_CONCURRENCY: Final[int] = inspect.signature(RequestsWriter).parameters["flush_concurrency"].default

ORM: Final = "ORM, a commit each"

Work = Callable[[], Coroutine[Any, Any, None]]
Row = dict[str, Any]
Driver = Any
"""An ``asyncpg.Connection``; asyncpg ships no types."""


_Copied = tuple[str, list[str], list[tuple[Any, ...]]]  # table, columns, rows


@dataclasses.dataclass(frozen=True)
class Peer:
    """``work(records)`` prepares whatever is not to be timed and answers with the part that is."""

    name: str
    connections: int
    work: Callable[[Sequence[CompletedRequest]], Work]
    # a slow peer stores fewer records in a round, so that a run does not last for ever; rates compare all the same
    share: float = 1.0


def writer_name(connections: int) -> str:
    """The writer's name in the report."""
    return f"writer, {connections} in flight"


def copy_name(connections: int) -> str:
    """The limit's name in the report."""
    return f"COPY, {connections} at once"


@contextlib.asynccontextmanager
async def writer(database: Database, connections: int) -> AsyncIterator[Peer]:
    """``RequestsWriter`` with its default options, but for ``flush_concurrency``; from first send to last commit."""
    async with (
        database.engine(connections) as engine,
        RequestsWriter(engine, flush_concurrency=connections) as open_writer,
    ):

        def work(records: Sequence[CompletedRequest]) -> Work:
            async def send_all() -> None:
                for index, record in enumerate(records, 1):
                    await open_writer.send(record)
                    if index % BATCH == 0:
                        # send() only suspends when the buffer is full; a service's handlers come and go in between
                        await asyncio.sleep(0)
                await open_writer.flush()

            return send_all

        yield Peer(writer_name(connections), connections, work)


@contextlib.asynccontextmanager
async def copy(database: Database, connections: int) -> AsyncIterator[Peer]:
    """The limit: rows finished beforehand, ``COPY`` into both tables, one transaction a batch, no upsert."""
    async with database.engine(connections) as engine, contextlib.AsyncExitStack() as stack:
        drivers = [await stack.enter_async_context(_driver(engine)) for _ in range(connections)]

        def work(records: Sequence[CompletedRequest]) -> Work:
            # one iterator for all connections: each takes the next batch as soon as it is free
            batches = _copy_batches(records)

            async def copy_all() -> None:
                async with asyncio.TaskGroup() as group:
                    for driver in drivers:
                        group.create_task(_copy(driver, batches))

            return copy_all

        yield Peer(copy_name(connections), connections, work)


@contextlib.asynccontextmanager
async def orm(database: Database) -> AsyncIterator[Peer]:
    """What most services do: a session and a commit for every request, one after the other."""
    async with database.engine(1) as engine:
        sessions = async_sessionmaker(engine, expire_on_commit=False)

        def work(records: Sequence[CompletedRequest]) -> Work:
            async def commit_all() -> None:
                for record in records:
                    async with sessions() as session:
                        session.add(_mapped(record))
                        await session.commit()

            return commit_all

        yield Peer(ORM, 1, work, share=0.1)


@contextlib.asynccontextmanager
async def _driver(engine: AsyncEngine) -> AsyncIterator[Driver]:
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        yield raw.driver_connection


async def _copy(driver: Driver, batches: Iterator[Sequence[_Copied]]) -> None:
    for batch in batches:
        async with driver.transaction():
            for table, columns, rows in batch:
                await driver.copy_records_to_table(table, columns=columns, records=rows)


def _copy_batches(records: Sequence[CompletedRequest]) -> Iterator[Sequence[_Copied]]:
    """What each transaction copies, in order: the foreign key wants templates first."""
    rows = [_rows(record) for record in records]
    return iter([_copied(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)])


def _copied(batch: Sequence[tuple[Row, Row]]) -> list[_Copied]:
    tables = enumerate(("request_templates", "requests"))
    return [(table, list(batch[0][n]), [tuple(rows[n].values()) for rows in batch]) for n, table in tables]


def _mapped(record: CompletedRequest) -> Request:
    template_values, values = _rows(record)
    template, request = RequestTemplate(), Request()
    for instance, columns in ((template, template_values), (request, values)):
        for name, value in columns.items():
            setattr(instance, name, value)
    request.template = template
    return request


def _rows(record: CompletedRequest) -> tuple[Row, Row]:
    """The finished rows of both tables, as the writer would leave them."""
    template = {
        "id": uuid7(),
        "endpoint": "",
        "method": "POST",
        "path": record.endpoint,
        "model": record.model,
        "api_key": record.api_key,
        "body": record.request_body,
        "body_byte_size": utf8_size(record.request_body),
    }
    request = {
        "id": record.request_id,
        "template_id": template["id"],
        "model": record.model,
        "state": "completed",
        "daemon_id": NIL_DAEMON,
        "claimed_at": record.started_at,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "response_status": record.status_code,
        "response_body": record.response_body,
        "response_size": utf8_size(record.response_body),
        "service_tier": REALTIME_TIER,
        "created_by": record.created_by,
        "created_at": record.started_at,
    }
    return template, request

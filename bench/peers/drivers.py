"""Peers over raw drivers: the limit, and three statements."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from uuid_utils.compat import uuid7

from bench.database import Database
from bench.peers.common import (
    REQUEST_COLUMNS,
    TEMPLATE_COLUMNS,
    Open,
    Peer,
    Setting,
    Store,
    Work,
    cut,
    in_batches,
    in_turns,
    rows,
)
from rwriter import CompletedRequest

Driver = Any
"""An ``asyncpg.Connection``; asyncpg ships no types."""
Values = list[tuple[Any, ...]]


def _over_drivers(make: Callable[[Driver], Awaitable[Store]]) -> Open:
    """Return the peer that stores a batch at a time, on as many connections as flushes are in flight."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Peer]:
        async with database.drivers(setting.flushes) as drivers:
            yield in_batches([await make(driver) for driver in drivers], setting)

    return opened


# -- the limit


@contextlib.asynccontextmanager
async def copy(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    """Open ``COPY`` of rows finished beforehand into both tables, one transaction a batch, no upsert."""
    async with database.drivers(setting.flushes) as drivers:

        def work(records: Sequence[CompletedRequest]) -> Work:
            batches = [_values(batch) for batch in cut(records, setting.batch)]
            return in_turns([_copying(driver) for driver in drivers], batches)

        yield Peer(work)


def _values(batch: Sequence[CompletedRequest]) -> tuple[Values, Values]:
    """Return the rows of templates and of requests."""
    pairs = [rows(record) for record in batch]
    return [tuple(template.values()) for template, _ in pairs], [tuple(request.values()) for _, request in pairs]


def _copying(driver: Driver) -> Callable[[tuple[Values, Values]], Awaitable[None]]:
    async def store(batch: tuple[Values, Values]) -> None:
        templates, requests = batch
        # in this order: the foreign key wants templates first
        async with driver.transaction():
            await driver.copy_records_to_table("request_templates", columns=TEMPLATE_COLUMNS, records=templates)
            await driver.copy_records_to_table("requests", columns=REQUEST_COLUMNS, records=requests)

    return store


# -- three statements

# every response here is a 200
_UPDATE: Final = """
UPDATE requests AS r SET state = 'completed', completed_at = v.finished_at, response_status = v.status,
    response_body = v.response_body, response_size = octet_length(v.response_body)
FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::timestamptz[]) AS v (id, status, response_body, finished_at)
WHERE r.id = v.id AND r.state = 'processing'
RETURNING r.id
"""
_TEMPLATES: Final = """
INSERT INTO request_templates (id, endpoint, method, path, model, api_key, body, body_byte_size)
SELECT v.id, '', 'POST', v.path, v.model, v.api_key, v.body, octet_length(v.body)
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS v (id, path, model, api_key, body)
"""
_REQUESTS: Final = """
INSERT INTO requests (id, template_id, model, state, daemon_id, claimed_at, started_at, completed_at, response_status,
    response_body, response_size, service_tier, created_by, created_at)
SELECT v.id, v.template_id, v.model, 'completed', '00000000-0000-0000-0000-000000000000', v.started_at, v.started_at,
    v.finished_at, v.status, v.response_body, octet_length(v.response_body), 'priority', v.created_by, v.started_at
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::timestamptz[],
    $8::timestamptz[]) AS v (id, template_id, model, status, response_body, created_by, started_at, finished_at)
ON CONFLICT (id) DO NOTHING
"""


async def _three(driver: Driver) -> Store:
    async def store(batch: Sequence[CompletedRequest]) -> None:
        async with driver.transaction():
            ended = _columns(batch, "request_id", "status_code", "response_body", "completed_at")
            begun = {row[0] for row in await driver.fetch(_UPDATE, *ended)}
            if new := [r for r in batch if r.request_id not in begun] if begun else batch:
                await _insert(driver, new)

    return store


async def _insert(driver: Driver, new: Sequence[CompletedRequest]) -> None:
    templates = [uuid7() for _ in new]
    await driver.execute(_TEMPLATES, templates, *_columns(new, "endpoint", "model", "api_key", "request_body"))
    (ids,) = _columns(new, "request_id")
    names = ("model", "status_code", "response_body", "created_by", "started_at", "completed_at")
    await driver.execute(_REQUESTS, ids, templates, *_columns(new, *names))


def _columns(batch: Sequence[CompletedRequest], *names: str) -> list[list[Any]]:
    return [[getattr(record, name) for record in batch] for name in names]


three_statements: Final = _over_drivers(_three)
"""Finish the rows in ``processing``; for the others insert templates, then requests that are not there yet."""

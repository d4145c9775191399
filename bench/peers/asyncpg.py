"""Peers over raw asyncpg: the limit, three statements, and ``COPY`` into a temporary table."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from uuid_utils.compat import uuid7

from bench.database import Database
from bench.peers.common import (
    FINISH_BEGUN,
    REQUEST_COLUMNS,
    TEMPLATE_COLUMNS,
    Open,
    Peer,
    Row,
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
            finished = [rows(record) for record in records]
            batches = [[_values(batch, index) for index in (0, 1)] for batch in cut(finished, setting.batch)]
            return in_turns([_copying(driver) for driver in drivers], batches)

        yield Peer(setting.flushes, work)


def _values(batch: Sequence[tuple[Row, Row]], index: int) -> list[tuple[Any, ...]]:
    return [tuple(pair[index].values()) for pair in batch]


def _copying(driver: Driver) -> Callable[[Sequence[list[tuple[Any, ...]]]], Awaitable[None]]:
    async def store(batch: Sequence[list[tuple[Any, ...]]]) -> None:
        templates, requests = batch
        # in this order: the foreign key wants templates first
        async with driver.transaction():
            await driver.copy_records_to_table("request_templates", columns=TEMPLATE_COLUMNS, records=templates)
            await driver.copy_records_to_table("requests", columns=REQUEST_COLUMNS, records=requests)

    return store


# -- three statements

_UPDATE: Final = """
UPDATE requests AS r SET
    state = CASE WHEN v.status BETWEEN 200 AND 299 THEN 'completed' ELSE 'failed' END,
    completed_at = CASE WHEN v.status BETWEEN 200 AND 299 THEN v.finished_at END,
    failed_at = CASE WHEN v.status NOT BETWEEN 200 AND 299 THEN v.finished_at END,
    response_status = v.status,
    response_body = v.response_body,
    response_size = octet_length(v.response_body),
    error = CASE WHEN v.status NOT BETWEEN 200 AND 299 THEN v.response_body END
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
INSERT INTO requests (id, template_id, model, state, daemon_id, claimed_at, started_at, completed_at, failed_at,
    response_status, response_body, response_size, error, service_tier, created_by, created_at)
SELECT v.id, v.template_id, v.model,
    CASE WHEN v.status BETWEEN 200 AND 299 THEN 'completed' ELSE 'failed' END,
    '00000000-0000-0000-0000-000000000000', v.started_at, v.started_at,
    CASE WHEN v.status BETWEEN 200 AND 299 THEN v.finished_at END,
    CASE WHEN v.status NOT BETWEEN 200 AND 299 THEN v.finished_at END,
    v.status, v.response_body, octet_length(v.response_body),
    CASE WHEN v.status NOT BETWEEN 200 AND 299 THEN v.response_body END,
    'priority', v.created_by, v.started_at
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::timestamptz[],
    $8::timestamptz[]) AS v (id, template_id, model, status, response_body, created_by, started_at, finished_at)
ON CONFLICT (id) DO NOTHING
"""


async def _three(driver: Driver) -> Store:
    async def store(batch: Sequence[CompletedRequest]) -> None:
        async with driver.transaction():
            updated = await driver.fetch(
                _UPDATE,
                [r.request_id for r in batch],
                [r.status_code for r in batch],
                [r.response_body for r in batch],
                [r.completed_at for r in batch],
            )
            begun = {row[0] for row in updated}
            new = [r for r in batch if r.request_id not in begun] if begun else batch
            if new:
                await _insert(driver, new)

    return store


async def _insert(driver: Driver, new: Sequence[CompletedRequest]) -> None:
    templates = [uuid7() for _ in new]
    models = [r.model for r in new]
    paths, keys = [r.endpoint for r in new], [r.api_key for r in new]
    await driver.execute(_TEMPLATES, templates, paths, models, keys, [r.request_body for r in new])
    await driver.execute(
        _REQUESTS,
        [r.request_id for r in new],
        templates,
        models,
        [r.status_code for r in new],
        [r.response_body for r in new],
        [r.created_by for r in new],
        [r.started_at for r in new],
        [r.completed_at for r in new],
    )


three_statements: Final = _over_drivers(_three)
"""Finish the rows in ``processing``; for the others insert templates, then requests that are not there yet."""


# -- COPY into a temporary table

_COLUMNS: Final = ", ".join(REQUEST_COLUMNS)
_OTHERS: Final = ", ".join(name for name in TEMPLATE_COLUMNS if name not in {"id", "model"})
_UPSERT: Final = f"""
WITH up AS (
    INSERT INTO requests ({_COLUMNS}) SELECT {_COLUMNS} FROM incoming {FINISH_BEGUN}
    RETURNING template_id
)
INSERT INTO request_templates (id, model, {_OTHERS})
SELECT template_id, model, {_OTHERS} FROM incoming JOIN up USING (template_id)
"""


async def _copy_then_upsert(driver: Driver) -> Store:
    # compressed as in the tables: values are moved as they are then, and no byte is compressed twice
    await driver.execute(
        """
        CREATE TEMPORARY TABLE incoming (
            LIKE requests INCLUDING COMPRESSION, endpoint text, method text, path text, api_key text,
            body text, body_byte_size bigint
        ) ON COMMIT DELETE ROWS
        """
    )
    for column in ("retry_attempt", "updated_at"):
        await driver.execute(f"ALTER TABLE incoming ALTER COLUMN {column} DROP NOT NULL")

    async def store(batch: Sequence[CompletedRequest]) -> None:
        # id and model are the request's own
        finished = [template | request for template, request in map(rows, batch)]
        async with driver.transaction():
            await driver.copy_records_to_table(
                "incoming", columns=list(finished[0]), records=[tuple(row.values()) for row in finished]
            )
            await driver.execute(_UPSERT)

    return store


copy_upsert: Final = _over_drivers(_copy_then_upsert)
"""``COPY`` into a temporary table of the session, then one statement that upserts from it."""

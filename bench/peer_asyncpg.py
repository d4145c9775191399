"""Peers over raw asyncpg: the limit, three statements, and ``COPY`` into a temporary table."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

from uuid_utils.compat import uuid7

from bench.batches import Row, Store, Work, cut, rows
from rwriter import CompletedRequest

Driver = Any
"""An ``asyncpg.Connection``; asyncpg ships no types."""

_Copied = tuple[str, list[str], list[tuple[Any, ...]]]  # table, columns, rows


# -- the limit


def copies(drivers: Sequence[Driver], records: Sequence[CompletedRequest], size: int) -> Work:
    """Rows finished beforehand, ``COPY`` into both tables, one transaction a batch, no upsert."""
    # one iterator for all connections: each takes the next batch as soon as it is free
    batches = iter([_copied(batch) for batch in cut([rows(record) for record in records], size)])

    async def copy_all() -> None:
        async with asyncio.TaskGroup() as group:
            for driver in drivers:
                group.create_task(_copy(driver, batches))

    return copy_all


async def _copy(driver: Driver, batches: Iterator[Sequence[_Copied]]) -> None:
    for batch in batches:
        async with driver.transaction():
            for table, columns, values in batch:
                await driver.copy_records_to_table(table, columns=columns, records=values)


def _copied(batch: Sequence[tuple[Row, Row]]) -> list[_Copied]:
    # in this order: the foreign key wants templates first
    tables = enumerate(("request_templates", "requests"))
    return [(table, list(batch[0][n]), [tuple(pair[n].values()) for pair in batch]) for n, table in tables]


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


def three_statements(driver: Driver) -> Store:
    """Finish the rows in ``processing``; for the others insert templates, then requests that are not there yet."""

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


# -- COPY into a temporary table

_REQUEST_COLUMNS: Final = (
    "id, template_id, model, state, daemon_id, claimed_at, started_at, completed_at, response_status, response_body,"
    " response_size, service_tier, created_by, created_at"
)

_UPSERT: Final = f"""
WITH up AS (
    INSERT INTO requests ({_REQUEST_COLUMNS}) SELECT {_REQUEST_COLUMNS} FROM incoming
    ON CONFLICT (id) DO UPDATE SET
        state = excluded.state, completed_at = excluded.completed_at, response_status = excluded.response_status,
        response_body = excluded.response_body, response_size = excluded.response_size
    WHERE requests.state = 'processing'
    RETURNING template_id
)
INSERT INTO request_templates (id, endpoint, method, path, model, api_key, body, body_byte_size)
SELECT template_id, endpoint, method, path, model, api_key, body, body_byte_size
FROM incoming JOIN up USING (template_id)
"""


async def copy_upsert(driver: Driver) -> Store:
    """``COPY`` into a temporary table of ``driver``'s session, then one statement that upserts from it."""
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
        finished = [_incoming(record) for record in batch]
        async with driver.transaction():
            await driver.copy_records_to_table(
                "incoming", columns=list(finished[0]), records=[tuple(row.values()) for row in finished]
            )
            await driver.execute(_UPSERT)

    return store


def _incoming(record: CompletedRequest) -> Row:
    template, request = rows(record)
    # id and model are the request's own
    return template | request

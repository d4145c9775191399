"""Prepare tables for a turn: filled with millions of rows, indexed as a claiming daemon's, or with rows begun."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from bench.database import Database
from rwriter import CompletedRequest, NewRequest, RequestStore

_DAEMON_INDEXES: Final = (
    *(f"requests ({name})" for name in ("state", "model", "batch_id", "daemon_id", "not_before", "service_tier")),
    *(f"requests ({name})" for name in ("created_at", "completed_at", "state, model", "batch_id, state")),
    "requests (state, created_at)",
    *(f"requests ({name}) WHERE state = 'pending'" for name in ("created_at", "not_before", "model, created_at")),
    "requests (daemon_id) WHERE state IN ('claimed', 'processing')",
    "requests (claimed_at) WHERE state = 'claimed'",
    "requests (started_at) WHERE state = 'processing'",
    "requests (failed_at) WHERE state = 'failed'",
    "request_templates (file_id)",
    "request_templates (model)",
)
"""Beside those the tables have: what such a daemon claims, counts and sweeps by. An inserted row is in thirteen."""


async def add_daemon_indexes(database: Database) -> None:
    """Make the tables those of a claiming daemon: pglz bodies and twenty more indexes."""
    async with database.control() as connection:
        for table, column in (("requests", "response_body"), ("requests", "error"), ("request_templates", "body")):
            await connection.exec_driver_sql(f"ALTER TABLE {table} ALTER COLUMN {column} SET COMPRESSION pglz")
        for index in _DAEMON_INDEXES:
            await connection.exec_driver_sql(f"CREATE INDEX ON {index}")


async def begin(database: Database, records: Sequence[CompletedRequest]) -> None:
    """Insert rows in ``processing`` for ``records``, as a service does when their requests begin."""
    if not records:
        return
    async with database.engine(8) as engine:
        store, left = RequestStore(engine), iter(records)
        await asyncio.gather(*(_begin(store, left) for _ in range(8)))
    async with database.control() as connection:
        # a table that lives has statistics; without them a join by id may come out as a scan of the table
        await connection.exec_driver_sql("ANALYZE requests, request_templates")


async def _begin(store: RequestStore, left: Iterator[CompletedRequest]) -> None:
    for record in left:
        await store.create_realtime(
            NewRequest(
                request_id=record.request_id,
                body=record.request_body,
                model=record.model,
                endpoint=record.endpoint,
                method="POST",
                path=record.endpoint,
                api_key=record.api_key,
                created_by=record.created_by,
            )
        )


# -- rows already there

LARGE_OWNER: Final = "tenant-0"
"""A sixth of all rows; the others have fewer and fewer, down to a few thousand."""
SMALL_OWNER: Final = "tenant-199"
COMMON_MODEL: Final = "model-0"
RARE_MODEL: Final = "model-rare"
"""A hundred rows, all of them ``LARGE_OWNER``'s and in its older half."""

_V7: Final = """(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 1, 3) || '8'
    || substr(hash, 4, 15))::uuid"""

# setseed() makes the same table of every run but for v4 ids; v7 follow the time, as those of the library do
_FILL: Final = """
CREATE TEMPORARY TABLE filling AS
SELECT n, at,
    {id} AS id,
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 18, 3) || '9'
     || substr(hash, 4, 15))::uuid AS template_id,
    CASE WHEN n % 100 < 5 THEN 10 WHEN n % 100 < 10 THEN 60 ELSE 5 END AS words,
    n % {rare} = 7 AND n < {rows} / 2 AS is_rare,
    CASE WHEN n > {rows} - 200 OR n % 100000 = 3 THEN 'processing' WHEN n % 50000 = 11 THEN 'canceled'
        WHEN n % 25 = 0 THEN 'failed' ELSE 'completed' END AS state,
    floor(200 * power(random(), 3)) AS tenant
FROM (
    SELECT n, md5(n::text) AS hash, {since} + n * interval '30 days' / {rows} AS at
    FROM generate_series(1, {rows}) AS n
) AS numbered;

INSERT INTO request_templates (id, custom_id, endpoint, method, path, model, api_key, body, body_byte_size, created_at)
SELECT template_id, CASE WHEN n % 2 = 0 THEN 'chatcmpl-' || n END, '', 'POST', '/v1/responses', 'm',
    'sha256:' || md5(tenant::text), repeat(md5(n::text) || ' ', words), 33 * words, at
FROM filling;

INSERT INTO requests (id, template_id, custom_id, model, state, daemon_id, claimed_at, started_at, completed_at,
    failed_at, canceled_at, response_status, response_body, response_size, error, service_tier, created_by, batch_id,
    created_at, input_tokens, output_tokens, first_token_at)
SELECT id, template_id, CASE WHEN n % 2 = 0 THEN 'chatcmpl-' || n END,
    CASE WHEN is_rare THEN '{rare_model}' ELSE 'model-' || floor(8 * power(n % 997 / 997.0, 2)) END,
    state, '00000000-0000-0000-0000-000000000000', at, at,
    CASE state WHEN 'completed' THEN at + interval '2 seconds' END,
    CASE state WHEN 'failed' THEN at + interval '2 seconds' END,
    CASE state WHEN 'canceled' THEN at + interval '2 seconds' END,
    CASE state WHEN 'completed' THEN 200 WHEN 'failed' THEN 500 END,
    CASE WHEN state IN ('completed', 'failed') THEN repeat(md5(n::text) || ' ', 2 * words) END, 66 * words,
    CASE state WHEN 'failed' THEN '{{"type": "NonRetriableHttpStatus"}}' END,
    'priority', CASE WHEN is_rare THEN '{large}' WHEN n % 20 <> 1 THEN 'tenant-' || tenant END,
    CASE WHEN NOT is_rare AND n % 20 = 1 THEN id END, at, n % 4000, n % 800, at + n % 1700 * interval '1 ms'
FROM filling;

DROP TABLE filling
"""


async def fill(database: Database, rows: int, ids: str = "v7", since: str = "timestamptz '2026-01-01'") -> None:
    """Insert ``rows`` requests of the thirty days from ``since`` on with their templates, then ``VACUUM ANALYZE``.

    Tenants and models have very different sizes; most bodies are small, and some have a few kB. ``ids``: those of the
    requests; ``v4`` are all over the index, so that those to come are too. Templates' are ``v7``.
    """
    values = {"rows": rows, "rare": max(1, rows // 200), "rare_model": RARE_MODEL, "large": LARGE_OWNER, "since": since}
    values["id"] = "gen_random_uuid()" if ids == "v4" else _V7
    async with database.control() as connection:
        await connection.exec_driver_sql("SELECT setseed(0.5)")
        async with _without_indexes(connection, database.schema):
            for statement in _FILL.format(**values).split(";"):
                await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql("VACUUM ANALYZE requests, request_templates")
    await database.checkpoint()


@contextlib.asynccontextmanager
async def _without_indexes(connection: AsyncConnection, schema: str) -> AsyncIterator[None]:
    """Drop both tables' keys and the indexes of ``requests``, and make them again at the end of the block.

    Made afterwards they take a fraction of the time, and the foreign key is checked once and not for every row.
    """
    constraints = f"""
        SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
            format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE connamespace = '{schema}'::regnamespace AND contype IN ('p', 'f')
            AND conrelid::regclass::text IN ('requests', 'request_templates') ORDER BY contype"""
    indexes = f"""
        SELECT format('DROP INDEX %I', indexname), indexdef FROM pg_indexes
        WHERE schemaname = '{schema}' AND tablename = 'requests' AND indexname <> 'requests_pkey'"""
    keys = (await connection.exec_driver_sql(constraints)).all()
    others = (await connection.exec_driver_sql(indexes)).all()
    for row in (*keys, *others):
        await connection.exec_driver_sql(row[0])
    yield
    for row in (*others, *reversed(keys)):
        await connection.exec_driver_sql(row[1])

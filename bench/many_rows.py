"""Two million rows for readers: tenants and models of very different sizes, most bodies small and some of a few kB."""

from __future__ import annotations

from typing import Final

from bench.database import Database
from bench.tables import without_indexes

LARGE_OWNER: Final = "tenant-0"
"""A sixth of all rows; the others have fewer and fewer, down to a few thousand."""
SMALL_OWNER: Final = "tenant-199"
COMMON_MODEL: Final = "model-0"
RARE_MODEL: Final = "model-rare"
"""A hundred rows, all of them ``LARGE_OWNER``'s and in its older half."""

# setseed() makes the same table of every run; ids follow the time, as those of the library do
_FILL: Final = """
CREATE TEMPORARY TABLE filling AS
SELECT n, at,
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 1, 3) || '8'
     || substr(hash, 4, 15))::uuid AS id,
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 18, 3) || '9'
     || substr(hash, 4, 15))::uuid AS template_id,
    CASE WHEN n % 100 < 5 THEN 10 WHEN n % 100 < 10 THEN 60 ELSE 5 END AS words,
    n % {rare} = 7 AND n < {rows} / 2 AS is_rare,
    CASE WHEN n > {rows} - 200 OR n % 100000 = 3 THEN 'processing' WHEN n % 50000 = 11 THEN 'canceled'
        WHEN n % 25 = 0 THEN 'failed' ELSE 'completed' END AS state,
    floor(200 * power(random(), 3)) AS tenant
FROM (
    SELECT n, md5(n::text) AS hash, timestamptz '2026-01-01' + n * interval '30 days' / {rows} AS at
    FROM generate_series(1, {rows}) AS n
) AS numbered;

INSERT INTO request_templates (id, custom_id, endpoint, method, path, model, api_key, body, body_byte_size, created_at)
SELECT template_id, CASE WHEN n % 2 = 0 THEN 'chatcmpl-' || n END, '', 'POST', '/v1/responses', 'm',
    'sha256:' || md5(tenant::text), repeat(md5(n::text) || ' ', words), 33 * words, at
FROM filling;

INSERT INTO requests (id, template_id, custom_id, model, state, daemon_id, claimed_at, started_at, completed_at,
    failed_at, canceled_at, response_status, response_body, response_size, error, service_tier, created_by, batch_id,
    created_at)
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
    CASE WHEN NOT is_rare AND n % 20 = 1 THEN id END, at
FROM filling;

DROP TABLE filling
"""


async def fill(database: Database, rows: int) -> None:
    """``rows`` requests of thirty days with their templates, then ``VACUUM ANALYZE``."""
    values = {"rows": rows, "rare": max(1, rows // 200), "rare_model": RARE_MODEL, "large": LARGE_OWNER}
    async with database.control() as connection:
        await connection.exec_driver_sql("SELECT setseed(0.5)")
        async with without_indexes(connection, database.schema):
            for statement in _FILL.format(**values).split(";"):
                await connection.exec_driver_sql(statement)
        await connection.exec_driver_sql("VACUUM ANALYZE requests, request_templates")
    await database.checkpoint()

"""psycopg 3 in pipeline mode: all of a transaction's statements on their way before the first answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import psycopg

from bench.batches import Row, Store, rows
from bench.database import Database
from rwriter import CompletedRequest

_TEMPLATE_COLUMNS: Final = ("id", "endpoint", "method", "path", "model", "api_key", "body", "body_byte_size")
_REQUEST_COLUMNS: Final = (
    "id",
    "template_id",
    "model",
    "state",
    "daemon_id",
    "claimed_at",
    "started_at",
    "completed_at",
    "response_status",
    "response_body",
    "response_size",
    "service_tier",
    "created_by",
    "created_at",
)


def _insert(table: str, columns: Sequence[str]) -> str:
    # %b: binary parameters, which cost neither side a conversion
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%b'] * len(columns))})"


_TEMPLATE: Final = f"{_insert('request_templates', _TEMPLATE_COLUMNS)} ON CONFLICT (id) DO NOTHING"
_REQUEST: Final = f"""{_insert("requests", _REQUEST_COLUMNS)}
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, completed_at = excluded.completed_at, response_status = excluded.response_status,
    response_body = excluded.response_body, response_size = excluded.response_size
WHERE requests.state = 'processing'
"""


@contextlib.asynccontextmanager
async def connected(database: Database, connections: int) -> AsyncIterator[list[Store]]:
    """A store for each connection."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await psycopg.AsyncConnection.connect(
                database.libpq_url, options=f"-c search_path={database.schema}", autocommit=True, prepare_threshold=0
            )
            for _ in range(connections)
        ]
        for connection in opened:
            stack.push_async_callback(connection.close)
        yield [_store(connection) for connection in opened]


def _store(connection: psycopg.AsyncConnection) -> Store:
    async def store(batch: Sequence[CompletedRequest]) -> None:
        pairs = [rows(record) for record in batch]
        async with connection.pipeline(), connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(_TEMPLATE, [_values(template) for template, _ in pairs])
            await cursor.executemany(_REQUEST, [_values(request) for _, request in pairs])

    return store


def _values(row: Row) -> tuple[object, ...]:
    return tuple(row.values())

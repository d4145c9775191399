"""psycopg 3 in pipeline mode: all of a transaction's statements are sent before the first answer is read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import psycopg

from bench.database import Database
from bench.peers.common import (
    FINISH_BEGUN,
    REQUEST_COLUMNS,
    TEMPLATE_COLUMNS,
    Peer,
    Setting,
    Store,
    in_batches,
    rows,
)
from rwriter import CompletedRequest


def _insert(table: str, columns: Sequence[str]) -> str:
    # %b: binary parameters, which cost neither side a conversion
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%b'] * len(columns))})"


_TEMPLATE: Final = f"{_insert('request_templates', TEMPLATE_COLUMNS)} ON CONFLICT (id) DO NOTHING"
_REQUEST: Final = f"{_insert('requests', REQUEST_COLUMNS)} {FINISH_BEGUN}"


@contextlib.asynccontextmanager
async def pipeline(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    """Open ``executemany`` upserts of both tables, in one pipeline a batch, prepared."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await psycopg.AsyncConnection.connect(
                database.libpq_url, options=f"-c search_path={database.schema}", autocommit=True, prepare_threshold=0
            )
            for _ in range(setting.flushes)
        ]
        for connection in opened:
            stack.push_async_callback(connection.close)
        yield in_batches([_store(connection) for connection in opened], setting)


def _store(connection: psycopg.AsyncConnection) -> Store:
    async def store(batch: Sequence[CompletedRequest]) -> None:
        pairs = [rows(record) for record in batch]
        async with connection.pipeline(), connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(_TEMPLATE, [tuple(template.values()) for template, _ in pairs])
            await cursor.executemany(_REQUEST, [tuple(request.values()) for _, request in pairs])

    return store

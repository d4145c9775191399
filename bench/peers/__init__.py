"""The ways to store the same finished requests, each opened once: its connections and statements are warm."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractAsyncContextManager
from typing import Final

from bench.database import Database
from bench.peers import asyncpg, rwriter, sqlalchemy
from bench.peers.common import Open, Path, Peer, Setting

WRITER: Final = "writer"
LIMIT: Final = "COPY"
THREE: Final = "three statements"
THREE_OWN: Final = "three statements, own schema"
COPY_UPSERT: Final = "COPY, then upsert"
INSERTMANY: Final = "insertmanyvalues"
EXECUTEMANY: Final = "executemany"
PIPELINE: Final = "psycopg pipeline"
PER_REQUEST_20: Final = "per request, 20"
PER_REQUEST: Final = "per request, 1"

_OPEN: Final[dict[str, Open]] = {
    WRITER: rwriter.writer,
    LIMIT: asyncpg.copy,
    THREE: asyncpg.three_statements,
    THREE_OWN: asyncpg.three_statements,
    COPY_UPSERT: asyncpg.copy_upsert,
    INSERTMANY: sqlalchemy.upsert_many(values=True),
    EXECUTEMANY: sqlalchemy.upsert_many(values=False),
    PER_REQUEST_20: sqlalchemy.session_each(20, 0.2),
    PER_REQUEST: sqlalchemy.session_each(1, 0.1),
}
EVERYONE: Final = (*list(_OPEN)[:7], PIPELINE, PER_REQUEST_20, PER_REQUEST)


def missing() -> list[str]:
    """Return the peers whose driver is not installed."""
    return [] if importlib.util.find_spec("psycopg") is not None else [PIPELINE]


def open_peer(name: str, database: Database, setting: Setting) -> AbstractAsyncContextManager[Peer]:
    """Open the peer of that name under ``setting``."""
    if name == PIPELINE:
        from bench.peers import psycopg  # noqa: PLC0415 -- its driver is in an extra

        return psycopg.pipeline(database, setting)
    return _OPEN[name](database, setting)


__all__ = ("EVERYONE", "Path", "Peer", "Setting", "missing", "open_peer")

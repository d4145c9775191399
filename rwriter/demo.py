"""``rwriter demo``: OpenAI traffic through the writer into PostgreSQL, read back, compared with what was sent, counted.

The traffic is ``demo_traffic.jsonl``, as ``examples/make_traffic.py`` makes it up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import re
import shlex
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import URL, distinct, func, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import (
    CompletedRequest,
    DbEngines,
    NewRequest,
    RequestDetail,
    RequestFilter,
    RequestsWriter,
    RequestStore,
    RequestSummary,
    RwriterError,
    WriterStats,
    new_request_id,
)
from rwriter.migrate import SCHEMA_VARIABLE, upgrade
from rwriter.schema import request_templates, requests
from rwriter.testing import PostgresServer

TRAFFIC: Final = Path(__file__).with_name("demo_traffic.jsonl")
ROUNDS: Final = 10
"""Times the traffic is sent, each under fresh ids: one round alone is over before it can be measured."""
DATABASE: Final = "rwriter_demo"
CONNECTIONS: Final = 5
"""Realtime rows begun, and rows read back, at the same time: one for each of the engine's connections."""

_OK: Final = range(200, 300)
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_FIXES: Final = {
    "28000": "check the user, the password and pg_hba.conf",
    "28P01": "check the user and the password",
    "3D000": "create the database first",
    "42501": "let this role create tables: GRANT CREATE ON SCHEMA, or give a --schema of its own",
}

T = TypeVar("T")


class DemoFailed(RwriterError):
    """Something is missing, or the database does not hold what was sent; the message says what."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A line of the traffic. Two lines with one ``request_id`` are a retry: the first answer is to stand."""

    request_id: str
    offset_ms: int
    duration_ms: int
    status_code: int
    endpoint: str
    model: str
    api_key: str
    created_by: str
    realtime: bool
    request_body: str
    response_body: str
    custom_id: str | None = None


class Sent(NamedTuple):
    """A pair, and the record of it that one round sends."""

    pair: Pair
    record: CompletedRequest


def main(*, database_url: str | None = None, schema: str | None = None, stop: bool = False) -> int:
    """Run the demo on ``database_url``, or on a server of its own that is left running; ``stop`` removes that one.

    A database that is handed over only gains rows. Prints to standard output; returns the exit code, which is 1, with
    the reason on standard error, where something is missing or is not stored as it was sent.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # upgrade() reads it too, and the rows are to be where the tables are
    schema = schema or os.environ.get(SCHEMA_VARIABLE) or None
    try:
        if stop:
            _stop(console)
        elif database_url is not None:
            asyncio.run(_demo(console, database_url, schema, "psql"))
        else:
            _demo_on_own_server(console, schema)
    except Exception as exc:
        reason = _reason(exc)
        if reason is None:
            raise
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"rwriter demo: {reason}")
        return 1
    return 0


def _own_server() -> PostgresServer:
    return PostgresServer(data_dir=Path(tempfile.gettempdir()) / f"rwriter-demo-{os.getuid()}", keep=True)


def _stop(console: Console) -> None:
    server = _own_server()
    found = server.data_dir.exists()
    server.delete()
    console.print(f"stopped the server, deleted {server.data_dir}" if found else "no server of the demo is here")


def _demo_on_own_server(console: Console, schema: str | None) -> None:
    server = _own_server()
    console.print(f"starting PostgreSQL in {server.data_dir}")
    server.start()
    asyncio.run(_recreate(server.url()))
    asyncio.run(_demo(console, server.url(DATABASE), schema, str(server.bin_dir / "psql")))
    console.print("done with it    rwriter demo --stop")


async def _recreate(url: str) -> None:
    async with DbEngines.from_url(url) as engines:
        # neither statement runs in a transaction
        engine = engines.write.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))
            await connection.execute(text(f"CREATE DATABASE {DATABASE}"))


async def _demo(console: Console, url: str, schema: str | None, psql: str) -> None:
    pairs = load_traffic()
    try:
        engines = DbEngines.from_url(url, schema=schema, pool_size=CONNECTIONS)
    except (ArgumentError, ValueError):
        # not its own words: they may quote a part of the URL, and that part be the password
        msg = "cannot use this database URL: write postgresql://user:password@host:5432/database"
        raise DemoFailed(msg) from None
    async with engines:
        await upgrade(engines, schema=schema)
        run = Run(engines, schema, pairs)
        with _progress(console) as progress:
            await run.begin(progress)
            await run.feed(progress)
            await run.verify(progress)
        await run.report(console)
    console.print(f"look further    {_psql_command(psql, engines.write.url, schema)}")


def load_traffic() -> list[Pair]:
    """The pairs of the shipped file. Only ``json`` reads it: lone surrogates are no JSON to stricter parsers."""
    with TRAFFIC.open(encoding="utf-8") as lines:
        return [Pair(**json.loads(line)) for line in lines]

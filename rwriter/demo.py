"""``rwriter demo``: OpenAI traffic through the writer into PostgreSQL, read back, compared with what was sent, counted.

The traffic is ``demo_traffic.jsonl``, as ``examples/make_traffic.py`` makes it up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shlex
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import URL, Row, Select, func, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from rwriter import (
    CompletedRequest,
    DbEngines,
    NewRequest,
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
    "3F000": "create the schema first, or let this role create it",
    "42501": "give it the privilege to create tables there, or name a --schema of its own",
}


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
    # upgrade() reads the variable, and the rows are to be where the tables are
    schema = schema or os.environ.get(SCHEMA_VARIABLE) or None
    console = Console(highlight=False, markup=False, soft_wrap=True)
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


def load_traffic() -> list[Pair]:
    """The pairs of the shipped file. Only ``json`` reads it: to stricter parsers a lone surrogate is no JSON."""
    with TRAFFIC.open(encoding="utf-8") as lines:
        return [Pair(**json.loads(line)) for line in lines]


def _own_server() -> PostgresServer:
    return PostgresServer(data_dir=Path(tempfile.gettempdir()) / f"rwriter-demo-{os.getuid()}", keep=True)


def _stop(console: Console) -> None:
    server = _own_server()
    found = server.data_dir.exists()
    server.delete()
    console.print(f"stopped the server, removed {server.data_dir}" if found else "there is no server of the demo's")


def _demo_on_own_server(console: Console, schema: str | None) -> None:
    server = _own_server()
    console.print(f"starting PostgreSQL in {server.data_dir}")
    server.start()
    asyncio.run(_recreate(server.url()))
    asyncio.run(_demo(console, server.url(DATABASE), schema, str(server.bin_dir / "psql")))
    console.print("when done     rwriter demo --stop")


async def _recreate(url: str) -> None:
    async with DbEngines.from_url(url) as engines:
        # neither statement runs in a transaction
        engine = engines.write.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))
            await connection.execute(text(f"CREATE DATABASE {DATABASE}"))


async def _demo(console: Console, url: str, schema: str | None, psql: str) -> None:
    pairs = load_traffic()
    async with _engines(url, schema) as engines:
        await upgrade(engines, schema=schema)
        console.print(f"sending {len(pairs):,} pairs of OpenAI traffic, {ROUNDS} times over under fresh ids")
        run = Run(engines, pairs)
        with _progress(console) as progress:
            await run.begin(progress)
            stats, seconds = await run.feed(progress)
            await run.verify(progress, stats)
        console.print(await run.table())
        for line in run.summary(stats, seconds):
            console.print(line)
        console.print(f"look further  {_psql_command(psql, engines.write.url, schema)}")


def _engines(url: str, schema: str | None) -> DbEngines:
    try:
        return DbEngines.from_url(url, schema=schema, pool_size=CONNECTIONS)
    except (ArgumentError, ValueError):
        # not its own words: they may quote a part of the URL, and that part be the password
        msg = "cannot use this database URL: write postgresql://user:password@host:5432/database"
        raise DemoFailed(msg) from None


class Run:
    """One run: what it sends, and what is to be found of it in the database afterwards."""

    def __init__(self, engines: DbEngines, pairs: Sequence[Pair]) -> None:
        self._engines = engines
        self._store = RequestStore(engines)
        self._pairs = len({pair.request_id for pair in pairs})
        self._sent = _all_rounds(pairs)
        # setdefault: the first of twins is the one whose answer is to stand
        self._expected: dict[uuid.UUID, Sent] = {}
        for sent in self._sent:
            self._expected.setdefault(sent.record.request_id, sent)
        self._realtime = [sent for sent in self._expected.values() if sent.pair.realtime]
        self._owners = sorted({sent.record.created_by for sent in self._sent})
        self._ours = requests.c.created_by.in_(self._owners)
        self._repaired = 0

    async def begin(self, progress: Progress) -> None:
        """Write rows for requests that are still running, as a service does before it calls the model."""
        await _few_at_once(progress, "beginning", self._realtime, self._create)
        count = select(func.count()).where(self._ours, requests.c.state == "processing")
        _require((await self._rows(count))[0][0] == len(self._realtime), "rows of create_realtime are missing")

    async def feed(self, progress: Progress) -> tuple[WriterStats, float]:
        """Send every record. The account, and the seconds from the first ``send()`` to the last commit."""
        task = progress.add_task("storing", total=len(self._sent))
        async with RequestsWriter(self._engines) as writer:
            began = time.perf_counter()
            for sent in self._sent:
                await writer.send(sent.record)
            while not await _flushed(writer):
                progress.update(task, completed=len(self._sent) - writer.stats.pending)
            seconds = time.perf_counter() - began
        progress.update(task, completed=len(self._sent))
        return writer.stats, seconds

    async def verify(self, progress: Progress, stats: WriterStats) -> None:
        """Raise ``DemoFailed`` unless the account, all rows and templates, and the bodies of a round are right."""
        account = (stats.accepted, stats.persisted, stats.skipped, stats.pending)
        wanted = (len(self._sent), len(self._expected), len(self._sent) - len(self._expected), 0)
        _require(account == wanted, f"expected {wanted[1]:,} persisted and {wanted[2]:,} skipped: {_account(stats)}")
        await _few_at_once(progress, "listing", self._owners, self._check_listing)
        one_round = list(self._expected.values())[-self._pairs :]
        await _few_at_once(progress, "reading back", one_round, self._check_bodies)
        await self._check_templates()

    async def table(self) -> Table:
        """What is stored of this run, by state and endpoint, as the database has it."""
        size = func.sum(requests.c.response_size + request_templates.c.body_byte_size)
        groups = (requests.c.state, request_templates.c.path)
        statuses = func.array_agg(requests.c.response_status.distinct())
        query = select(*groups, statuses, func.count(), size).join_from(requests, request_templates)
        table = Table("state", "endpoint", "HTTP status", title="stored in PostgreSQL")
        table.add_column("rows", justify="right")
        table.add_column("bodies", justify="right")
        for state, path, codes, rows, octets in await self._rows(query.where(self._ours).group_by(*groups).order_by(*groups)):
            table.add_row(state, path, " ".join(map(str, codes)), f"{rows:,}", f"{octets / 1e6:,.1f} MB")
        return table

    def summary(self, stats: WriterStats, seconds: float) -> list[str]:
        """The lines below the table."""
        return [
            f"account       {_account(stats)}",
            f"speed         {len(self._sent) / seconds:,.0f} records/s, {len(self._sent):,} in {seconds:.2f} s: from "
            "the first send() to the last commit, program and database together",
            f"verified      {len(self._expected):,} rows listed; {self._pairs:,} read back, byte for byte as sent but "
            f"for {self._repaired} bodies, where U+FFFD repairs NULs and lone surrogates",
            f"first wins    {stats.skipped:,} late answers to a finished request were skipped, none left a template",
            f"realtime      {len(self._realtime):,} rows were `processing` before their answer came",
        ]

    async def _create(self, sent: Sent) -> None:
        pair, record = sent
        await self._store.create_realtime(
            NewRequest(
                request_id=record.request_id,
                body=pair.request_body,
                model=pair.model,
                endpoint="",
                method="POST",
                path=pair.endpoint,
                api_key=pair.api_key,
                created_by=record.created_by,
            )
        )

    async def _check_listing(self, owner: str) -> None:
        found: list[RequestSummary] = []
        cursor: str | None = None
        while cursor is not None or not found:
            page = await self._store.list_requests(RequestFilter(created_by=owner, limit=1_000, cursor=cursor))
            found, cursor = found + page.data, page.next_cursor
            if cursor is None:
                break
        keys = [(row.created_at, row.id) for row in found]
        _require(keys == sorted(set(keys), reverse=True), "the listing is not newest first")
        ids = {key for key, sent in self._expected.items() if sent.record.created_by == owner}
        _require({row.id for row in found} == ids, "the listing lacks rows, or has rows that were not sent")
        for row in found:
            _compare(row, _expected_fields(self._expected[row.id]))

    async def _check_bodies(self, sent: Sent) -> None:
        row = await self._store.get_request(sent.record.request_id)
        if row is None:
            msg = f"row {sent.record.request_id} is missing"
            raise DemoFailed(msg)
        body, response_body = (_UNSTORABLE.sub("\ufffd", text) for text in (sent.pair.request_body, sent.pair.response_body))
        _compare(row, {"body": body, "response_body": response_body})
        error = {"type": "NonRetriableHttpStatus", "details": {"status": sent.pair.status_code, "body": response_body}}
        _require((row.error and json.loads(row.error)) == (None if sent.pair.status_code in _OK else error), "error")
        self._repaired += (body != sent.pair.request_body) + (response_body != sent.pair.response_body)

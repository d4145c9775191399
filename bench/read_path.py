"""Measure how long readers wait on two million rows, by percentiles of each kind of call."""

from __future__ import annotations

import argparse
import itertools
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.database import Database
from bench.report import percentiles, verdict
from bench.tables import COMMON_MODEL, LARGE_OWNER, RARE_MODEL, SMALL_OWNER, fill
from rwriter import RequestFilter, RequestStore
from rwriter.schema import requests
from rwriter.store._connections import Connections
from rwriter.store._listing import count

ROWS: Final = 2_000_000
PAGE: Final = 50
SAMPLE: Final = 5_000
"""Requests that are looked up."""

GET_GOAL_MS: Final = 2.0
PAGE_GOAL_MS: Final = 5.0

BUDGET: Final = 5.0
"""Seconds for one kind of call: a slow one is measured fewer times."""

Call = Callable[[], Awaitable[Any]]
Kind = tuple[str, float | None, Call]
"""A call with its name, and the goal for its p99 in milliseconds if it has one."""

PAGES: Final[dict[str, dict[str, Any]]] = {
    "of one owner, large": {"created_by": LARGE_OWNER},
    "of one owner, small": {"created_by": SMALL_OWNER},
    "of all owners": {},
    "of all owners, active first": {"active_first": True},
    "of one owner, active first": {"created_by": LARGE_OWNER, "active_first": True},
    "of one owner and a common model": {"created_by": LARGE_OWNER, "models": [COMMON_MODEL]},
    "of all owners and a common model": {"models": [COMMON_MODEL]},
    "of one owner, failed": {"created_by": LARGE_OWNER, "status": "failed"},
    "of all owners, processing": {"status": "processing"},
}
TOTALS: Final = {name: PAGES[name] for name in ("of one owner, small", "of one owner, large", "of all owners")}
UNINDEXED: Final[dict[str, dict[str, Any]]] = {
    "of one owner and a rare model": {"created_by": LARGE_OWNER, "models": [RARE_MODEL]},
    "of all owners and a rare model": {"models": [RARE_MODEL]},
    "of all owners, canceled": {"status": "canceled"},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Take the size of a run."""
    parser.add_argument("--rows", type=int, help="in the tables (default 2,000,000, with --quick 200,000)")
    parser.add_argument("--calls", type=int, help="of each kind (default 500, with --quick 100; fewer of slow ones)")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fill the tables, then time each kind of call and print it."""
    rows = options.rows or (ROWS // 10 if options.quick else ROWS)
    calls = options.calls or (100 if options.quick else 500)
    database = Database(url)
    async with database.tables(), database.engines(1) as engines:
        started = time.perf_counter()
        await fill(database, rows)
        seconds = round(time.perf_counter() - started, 1)
        print(f"{rows:,} rows with their templates, made in {seconds:g} s\nmilliseconds: p50, p99, max (calls)")
        store, found = RequestStore(engines), {}
        for name, goal, call in await _kinds(store, engines.read, database, rows):
            found[name] = await _timed(call, calls) | {"goal_p99_ms": goal}
            print(_line(name, found[name]), flush=True)
        settings = await database.settings()
    return {"run": {"rows": rows, "page": PAGE, "fill_seconds": seconds}, "server": settings, "calls_ms": found}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield how many of the goals are met: the calls were printed when they were made."""
    goals = [one for one in result["calls_ms"].values() if one["goal_p99_ms"] is not None]
    yield f"{sum(one['p99'] <= one['goal_p99_ms'] for one in goals)} of {len(goals)} goals for p99 are met"


async def _timed(call: Call, calls: int) -> dict[str, Any]:
    await call()  # warm: statements prepared
    found: list[float] = []
    deadline = time.perf_counter() + BUDGET
    while len(found) < calls and (len(found) < 2 or time.perf_counter() < deadline):  # noqa: PLR2004 -- a percentile takes two
        started = time.perf_counter()
        await call()
        found.append((time.perf_counter() - started) * 1_000)
    return {**percentiles(found), "calls": len(found)}


def _line(name: str, figures: Mapping[str, Any]) -> str:
    goal = figures["goal_p99_ms"]
    told = "" if goal is None else f"  {verdict(figures['p99'], goal)}"
    return f"  {name:<58} {figures['p50']:8.2f} {figures['p99']:8.2f} {figures['max']:8.2f} ({figures['calls']}){told}"


async def _kinds(store: RequestStore, engine: AsyncEngine, database: Database, rows: int) -> list[Kind]:
    ids, known = await _sample(database, rows)
    connections = Connections(engine, None)
    found: list[Kind] = [
        ("get_request", GET_GOAL_MS, lambda: store.get_request(next(ids))),
        ("find_request by the client's id", GET_GOAL_MS, lambda: store.find_request(*next(known))),
    ]
    for name, asked in PAGES.items():
        found.append((f"page {name}", PAGE_GOAL_MS, partial(store.list_page, _page(**asked))))
        if "small" not in name and "processing" not in name:
            deep = _page(cursor=await _deep(store, **asked), **asked)
            found.append((f"deep page {name}", PAGE_GOAL_MS, partial(store.list_page, deep)))
    for name, asked in TOTALS.items():
        found.append((f"list_requests {name}, total_count with it", None, partial(store.list_requests, _page(**asked))))
        alone = partial(count, connections, RequestFilter(**asked), consistent=False)
        found.append((f"total_count {name}, alone", None, alone))
    # what no index answers: rows are read in the order of the page until it is full
    found += [(f"page {name}", None, partial(store.list_page, _page(**asked))) for name, asked in UNINDEXED.items()]
    return found


def _page(**asked: Any) -> RequestFilter:
    return RequestFilter(limit=PAGE, **asked)


async def _deep(store: RequestStore, **asked: Any) -> str | None:
    """Return a cursor in the middle of the listing."""
    total = (await store.list_requests(RequestFilter(limit=1, **asked))).total_count
    _, cursor = await store.list_page(RequestFilter(limit=1, offset=max(0, total // 2 - PAGE), **asked))
    return cursor


async def _sample(database: Database, rows: int) -> tuple[itertools.cycle[uuid.UUID], itertools.cycle[tuple[str, str]]]:
    """Return ids from all over the table, in no order, and the custom ids of some with their owners."""
    query = select(requests.c.id, requests.c.custom_id, requests.c.created_by).where(
        # on the server: all ids would take this process a gigabyte
        requests.c.created_by.is_not(None),
        requests.c.state == "completed",
        func.random() < SAMPLE / rows,
    )
    async with database.control() as connection:
        found: Sequence[Any] = (await connection.execute(query)).all()
    found = random.Random(1).sample(found, len(found))
    known = [(row.custom_id, row.created_by) for row in found if row.custom_id is not None]
    return itertools.cycle([row.id for row in found]), itertools.cycle(known)

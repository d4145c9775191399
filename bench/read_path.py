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
from bench.tables import COMMON_MODEL, LARGE_OWNER, RARE_MODEL, SMALL_OWNER, fill_unevenly
from rwriter import RequestFilter, RequestPage, RequestStore
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
        await fill_unevenly(database, rows)
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
    estimates = 0
    deadline = time.perf_counter() + BUDGET
    while len(found) < calls and (len(found) < 2 or time.perf_counter() < deadline):  # noqa: PLR2004 -- a percentile takes two
        started = time.perf_counter()
        answer = await call()
        found.append((time.perf_counter() - started) * 1_000)
        estimates += _is_estimate(answer)
    figures = {**percentiles(found), "calls": len(found)}
    return figures | ({"estimates": estimates} if estimates else {})


def _is_estimate(answer: Any) -> bool:
    match answer:
        case RequestPage(total_is_estimate=is_estimate) | (int(), bool() as is_estimate):
            return is_estimate
    return False


def _line(name: str, figures: Mapping[str, Any]) -> str:
    goal = figures["goal_p99_ms"]
    told = "" if goal is None else f"  {verdict(figures['p99'], goal)}"
    if "estimates" in figures:
        told += f"  the total of {figures['estimates']} is an estimate"
    return f"  {name:<58} {figures['p50']:8.2f} {figures['p99']:8.2f} {figures['max']:8.2f} ({figures['calls']}){told}"


async def _kinds(
    store: RequestStore, engine: AsyncEngine, database: Database, rows: int
) -> list[tuple[str, float | None, Call]]:
    """Return every call, with the goal for its p99 in milliseconds where it has one."""
    ids, known = await _sample(database, rows)
    found: list[tuple[str, float | None, Call]] = [
        ("get_request", GET_GOAL_MS, lambda: store.get_request(next(ids))),
        ("find_request by the client's id", GET_GOAL_MS, lambda: store.find_request(*next(known))),
    ]
    pages: dict[str, dict[str, Any]] = {
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
    for name, asked in pages.items():
        found.append((f"page {name}", PAGE_GOAL_MS, _page(store, **asked)))
        if "small" not in name and "processing" not in name:
            deep = await _deep(store, **asked)
            found.append((f"deep page {name}", PAGE_GOAL_MS, _page(store, cursor=deep, **asked)))
    deep = await _deep(store, created_by=LARGE_OWNER)
    found.append(("list_requests of one owner, large, total_count with it", None, _listed(store, LARGE_OWNER)))
    found.append(("list_requests of one owner, small, total_count with it", None, _listed(store, SMALL_OWNER)))
    found.append(("list_requests, deep page of one owner, large", None, _listed(store, LARGE_OWNER, cursor=deep)))
    found.append(("list_requests of all owners", None, lambda: store.list_requests(RequestFilter(limit=PAGE))))
    found += _totals(engine)
    # what no index answers: rows are read in the order of the page until it is full
    found.append(
        ("page of one owner and a rare model", None, _page(store, created_by=LARGE_OWNER, models=[RARE_MODEL]))
    )
    found.append(("page of all owners and a rare model", None, _page(store, models=[RARE_MODEL])))
    found.append(("page of all owners, canceled", None, _page(store, status="canceled")))
    return found


def _totals(engine: AsyncEngine) -> list[tuple[str, float | None, Call]]:
    """Return the calls that ``list_requests`` makes beside ``list_page``, alone."""
    asked = {
        "of one owner, small": RequestFilter(created_by=SMALL_OWNER),
        "of one owner, large": RequestFilter(created_by=LARGE_OWNER),
        "of all owners": RequestFilter(),
    }
    connections = Connections(engine, None)
    return [
        (f"total_count {name}", None, partial(count, connections, each, consistent=False))
        for name, each in asked.items()
    ]


def _page(store: RequestStore, **asked: Any) -> Call:
    page = RequestFilter(limit=PAGE, **asked)
    return lambda: store.list_page(page)


def _listed(store: RequestStore, owner: str, **asked: Any) -> Call:
    page = RequestFilter(limit=PAGE, created_by=owner, **asked)
    return lambda: store.list_requests(page)


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

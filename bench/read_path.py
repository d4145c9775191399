"""``python -m bench.read_path``: how long readers wait on two million rows, by percentiles of each kind of call."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.database import Database, server
from bench.many_rows import COMMON_MODEL, LARGE_OWNER, RARE_MODEL, SMALL_OWNER, fill
from bench.report import machine
from rwriter import RequestFilter, RequestPage, RequestStore
from rwriter.schema import requests
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


def main() -> None:
    """Fill, measure, print, and write the JSON where one is asked for."""
    options = _options()
    with server(options.database_url) as url:
        result = asyncio.run(_measure(url, rows=options.rows, calls=options.calls))
    result["machine"] = machine()
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.read_path", description="Reading beside many rows.")
    parser.add_argument(
        "--database-url", help="a server of your own (default: embedded); schema rwriter_bench is replaced in it"
    )
    parser.add_argument("--rows", type=int, help="in the tables (default 2,000,000)")
    parser.add_argument("--calls", type=int, help="of each kind (default 500; fewer of slow ones)")
    parser.add_argument("--quick", action="store_true", help="200,000 rows and 100 calls")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    options.rows = options.rows or (ROWS // 10 if options.quick else ROWS)
    options.calls = options.calls or (100 if options.quick else 500)
    return options


async def _measure(url: str, *, rows: int, calls: int) -> dict[str, Any]:
    database = Database(url)
    async with database.tables(), database.engines(1) as engines:
        started = time.perf_counter()
        await fill(database, rows)
        seconds = round(time.perf_counter() - started, 1)
        print(f"{rows:,} rows with their templates, made in {seconds:g} s\nmilliseconds: p50, p99, max (calls)")
        store, found = RequestStore(engines), {}
        for name, goal, call in await _kinds(store, engines.read, database, rows):
            figures = await _timed(call, calls) | {"goal_p99_ms": goal}
            _print(name, figures)
            found[name] = figures
        settings = await database.settings()
    return {"run": {"rows": rows, "page": PAGE, "fill_seconds": seconds}, "server": settings, "calls_ms": found}


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
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    figures = {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(found), 3), "calls": len(found)}
    return figures | ({"estimates": estimates} if estimates else {})


def _is_estimate(answer: Any) -> bool:
    match answer:
        case RequestPage(total_is_estimate=is_estimate) | (int(), bool() as is_estimate):
            return is_estimate
    return False


def _print(name: str, figures: dict[str, Any]) -> None:
    goal = figures["goal_p99_ms"]
    verdict = "" if goal is None else f"  goal {goal:g}: {'met' if figures['p99'] <= goal else 'MISSED'}"
    if "estimates" in figures:
        verdict += f"  the total of {figures['estimates']} is an estimate"
    print(
        f"  {name:<58} {figures['p50']:8.2f} {figures['p99']:8.2f} {figures['max']:8.2f} ({figures['calls']}){verdict}"
    )


async def _kinds(
    store: RequestStore, engine: AsyncEngine, database: Database, rows: int
) -> list[tuple[str, float | None, Call]]:
    """Every call, with the goal for its p99 in milliseconds where it has one."""
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
    """What ``list_requests`` does beside ``list_page``, alone."""
    asked = {
        "of one owner, small": RequestFilter(created_by=SMALL_OWNER),
        "of one owner, large": RequestFilter(created_by=LARGE_OWNER),
        "of all owners": RequestFilter(),
    }
    return [(f"total_count {name}", None, partial(count, engine, each)) for name, each in asked.items()]


def _page(store: RequestStore, **asked: Any) -> Call:
    page = RequestFilter(limit=PAGE, **asked)
    return lambda: store.list_page(page)


def _listed(store: RequestStore, owner: str, **asked: Any) -> Call:
    page = RequestFilter(limit=PAGE, created_by=owner, **asked)
    return lambda: store.list_requests(page)


async def _deep(store: RequestStore, **asked: Any) -> str | None:
    """A cursor in the middle of the listing."""
    total = (await store.list_requests(RequestFilter(limit=1, **asked))).total_count
    _, cursor = await store.list_page(RequestFilter(limit=1, offset=max(0, total // 2 - PAGE), **asked))
    return cursor


async def _sample(database: Database, rows: int) -> tuple[itertools.cycle[uuid.UUID], itertools.cycle[tuple[str, str]]]:
    """Ids from all over the table, in no order, and what clients know some of them as."""
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


if __name__ == "__main__":
    main()

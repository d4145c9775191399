"""Fill a small table with every kind of row, and compute in Python which of them a listing must return."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import RowMapping, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestFilter, RequestPage, RequestStore, RequestSummary, new_request_id
from rwriter.schema import ACTIVE_STATES, STATES, TOMBSTONE_OWNER, request_templates, requests
from tests.support.records import STARTED
from tests.support.rows import in_state

OWNERS: Final = ("tenant-a", "tenant-b", "Ünïcode 你")
MODELS: Final = ("gpt-5", "o'Hara%_", "模型")
TIERS: Final = (None, "auto", "default", "flex", "priority", "background")
INSTANTS: Final = tuple(STARTED + timedelta(seconds=number) for number in range(4))
"""Creation times. There are few, so that many rows share one and are ordered by their ids."""


async def fill(engine: AsyncEngine) -> None:
    """Insert rows of every state, tier, owner and model; some have no template, and some are hidden from readers."""
    templates, rows = [], []
    kinds = list(itertools.product(STATES, TIERS, OWNERS))
    for number, (state, tier, owner) in enumerate(kinds):
        template_id = new_request_id() if number % 3 else None
        if template_id is not None:
            templates.append(template_of(template_id, path=f"/v1/{number}"))
        # 7 and 5 share no factor with the lengths of the other lists: every combination of values occurs
        model, instant = MODELS[number * 7 % 3], INSTANTS[number * 5 % 4]
        rows.append(row(state, service_tier=tier, created_by=owner, template_id=template_id, model=model)
                    | {"created_at": instant})  # fmt: skip
    hidden = [row(state, created_by=None, batch_id=new_request_id(), created_at=INSTANTS[0]) for state in STATES]
    tombstone = row("canceled", created_by=TOMBSTONE_OWNER, created_at=INSTANTS[0])
    async with engine.begin() as connection:
        await connection.execute(insert(request_templates), templates)
        await connection.execute(insert(requests), [*rows, *hidden, tombstone])


def row(state: str, **columns: Any) -> dict[str, Any]:
    """Return a row with every column that ``fill`` sets: an insert of many rows wants the same columns in each."""
    names = ("daemon_id", "claimed_at", "started_at", "response_status", "response_body", "completed_at", "error")
    empty = dict.fromkeys((*names, "failed_at", "canceled_at", "batch_id", "template_id", "service_tier"))
    return {"id": new_request_id(), "model": "hidden", **empty, **in_state(state), **columns}


def template_of(template_id: Any, **columns: Any) -> dict[str, Any]:
    """Return a template with ``columns`` in place of the defaults."""
    texts = {"endpoint": "", "method": "POST", "path": "", "model": "m", "api_key": "", "body": "asked"}
    return {"id": template_id, **texts, **columns}


def expected(rows: Sequence[RowMapping], asked: RequestFilter) -> list[Any]:
    """Return the ids of all rows that match ``asked``, in its order; its cursor, limit and offset are ignored."""
    matching = [row for row in rows if matches(row, asked)]
    matching.sort(key=lambda row: (row["created_at"], row["id"]), reverse=True)
    if asked.active_first:
        matching.sort(key=lambda row: row["state"] not in ACTIVE_STATES)
    return [row["id"] for row in matching]


def matches(row: RowMapping, asked: RequestFilter) -> bool:
    """Return True if a listing by ``asked`` contains ``row``."""
    return (
        row["created_by"] not in {None, TOMBSTONE_OWNER}
        and (asked.created_by is None or row["created_by"] == asked.created_by)
        and (asked.status is None or row["state"] == asked.status)
        and (asked.models is None or row["model"] in asked.models)
        and (asked.service_tiers is None or row["service_tier"] in asked.service_tiers)
        and (asked.created_after is None or row["created_at"] >= asked.created_after)
        and (asked.created_before is None or row["created_at"] <= asked.created_before)
    )


async def walk(store: RequestStore, **asked: Any) -> list[RequestSummary]:
    """Return every row of the listing, read page by page with the cursor."""
    found: list[RequestSummary] = []
    cursor = None
    while True:
        page = await store.list_requests(RequestFilter(cursor=cursor, **asked))
        found += page.data
        assert len(found) <= page.total_count, "the pages repeat rows"
        cursor = page.next_cursor
        if cursor is None:
            return found


def ids(page: RequestPage | Sequence[RequestSummary]) -> list[Any]:
    """Return the ids of a page's rows, in its order."""
    return [each.id for each in (page.data if isinstance(page, RequestPage) else page)]

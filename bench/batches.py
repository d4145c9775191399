"""What every peer but the writer shares: batches taken in turn by several connections, and the finished rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from uuid_utils.compat import uuid7

from rwriter import CompletedRequest
from rwriter.records import utf8_size
from rwriter.schema import NIL_DAEMON, REALTIME_TIER

Work = Callable[[], Coroutine[Any, Any, None]]
Row = dict[str, Any]
Store = Callable[[Sequence[CompletedRequest]], Awaitable[None]]
"""Stores a batch in one transaction. What it makes of the records it makes while it is timed, as the writer does."""

T = TypeVar("T")


def in_turns(stores: Sequence[Store], records: Sequence[CompletedRequest], size: int) -> Work:
    """Batches of ``size``, each taken by the connection that is free next."""
    batches = iter(cut(records, size))

    async def store_all() -> None:
        async with asyncio.TaskGroup() as group:
            for store in stores:
                group.create_task(_exhaust(store, batches))

    return store_all


def one_by_one(
    store: Callable[[CompletedRequest], Awaitable[None]], records: Sequence[CompletedRequest], at_once: int
) -> Work:
    """A transaction for each record, ``at_once`` of them in flight."""
    left = iter(records)

    async def store_all() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(_exhaust(store, left))

    return store_all


def cut(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """``items`` in pieces of ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]


async def _exhaust(store: Callable[[T], Awaitable[None]], left: Iterator[T]) -> None:
    for item in left:
        await store(item)


def rows(record: CompletedRequest) -> tuple[Row, Row]:
    """The finished rows of both tables, as the writer would leave them."""
    template = {
        "id": uuid7(),
        "endpoint": "",
        "method": "POST",
        "path": record.endpoint,
        "model": record.model,
        "api_key": record.api_key,
        "body": record.request_body,
        "body_byte_size": utf8_size(record.request_body),
    }
    request = {
        "id": record.request_id,
        "template_id": template["id"],
        "model": record.model,
        "state": "completed",
        "daemon_id": NIL_DAEMON,
        "claimed_at": record.started_at,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "response_status": record.status_code,
        "response_body": record.response_body,
        "response_size": utf8_size(record.response_body),
        "service_tier": REALTIME_TIER,
        "created_by": record.created_by,
        "created_at": record.started_at,
    }
    return template, request

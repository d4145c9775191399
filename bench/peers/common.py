"""Hold what the peers share: the setting they store under, batches taken in turn by connections, finished rows."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from uuid_utils.compat import uuid7

from bench.database import Database
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, record
from rwriter import CompletedRequest
from rwriter._values.texts import utf8_size
from rwriter.schema import NIL_DAEMON, REALTIME_TIER

Work = Callable[[], Coroutine[Any, Any, None]]
Row = dict[str, Any]
Store = Callable[[Sequence[CompletedRequest]], Awaitable[None]]
"""Stores a batch in one transaction. What it makes of the records it makes while it is timed, as the writer does."""

T = TypeVar("T")


class Path(enum.StrEnum):
    """The database's part in storing a record: insert it, finish a row that was begun, or one as often as the other."""

    INSERT = "insert"
    UPDATE = "update"
    MIXED = "mixed"


@dataclasses.dataclass(frozen=True)
class Setting:
    """The way records are stored. ``flushes``: transactions in flight, one a connection; ``ids``: ``v4`` or ``v7``."""

    batch: int = 100
    request_bytes: int = REQUEST_BYTES
    response_bytes: int = RESPONSE_BYTES
    flushes: int = 2
    path: Path = Path.INSERT
    ids: str = "v7"
    filled: bool = False


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to store records, opened. ``work(records)`` prepares what is not timed and returns what is."""

    work: Callable[[Sequence[CompletedRequest]], Work]
    # a slow peer stores fewer records in a round, so that a run does not last for ever; rates compare all the same
    share: float = 1.0


Open = Callable[[Database, Setting], AbstractAsyncContextManager[Peer]]


def in_batches(stores: Sequence[Store], setting: Setting) -> Peer:
    """Return the peer whose ``stores`` each take the next batch when they are free."""
    return Peer(lambda records: in_turns(stores, cut(records, setting.batch)))


def in_turns(stores: Sequence[Callable[[T], Awaitable[None]]], items: Sequence[T]) -> Work:
    """Return work in which each of ``stores`` takes the next item as soon as it is free."""
    left = iter(items)

    async def store_all() -> None:
        async with asyncio.TaskGroup() as group:
            for store in stores:
                group.create_task(_exhaust(store, left))

    return store_all


async def _exhaust(store: Callable[[T], Awaitable[None]], left: Iterator[T]) -> None:
    for item in left:
        await store(item)


def cut(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return ``items`` in pieces of ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def rows(record: CompletedRequest) -> tuple[Row, Row]:
    """Return the finished rows of both tables, as the writer would leave them."""
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


TEMPLATE_COLUMNS, REQUEST_COLUMNS = (tuple(row) for row in rows(record("", "")))

FINISHED_COLUMNS: Final = ("state", "completed_at", "response_status", "response_body", "response_size")

"""Requests of past weeks, to be archived and looked for."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import CompletedRequest, RequestDetail, RequestFilter, RequestPage, RequestStore, UsageRow
from rwriter.archive import Archived, ArchiveStore, archive_partitions
from rwriter.partitions import ensure
from tests.support.records import id_at, record, renamed

CUTS: Final = 2
OWNERS: Final = ("tenant-a", "tenant-b", "tenant-é")
"""The first two are in one cut, the third is in another."""


@dataclass(frozen=True)
class Aged:
    """The records by the week that their ids are of; ``now`` is in the partition that stays."""

    now: datetime
    first_week: list[CompletedRequest]
    second_week: list[CompletedRequest]
    today: list[CompletedRequest]

    @property
    def old(self) -> list[CompletedRequest]:
        """Return what an archive takes."""
        return [*self.first_week, *self.second_week]


FILTERS: Final[list[dict[str, Any]]] = [
    {},
    {"limit": 5},
    {"status": "failed"},
    {"models": ["model-1", "other"]},
    {"models": []},
    {"service_tiers": ["priority"]},
    {"service_tiers": [None]},
    {"metadata": {"n": 7, "even": False}},
    {"metadata": {"even": 0}},
    {"offset": 3, "limit": 4},
    {"active_first": True},
]
GROUPS: Final = [(), ("day", "model"), ("hour", "status"), ("created_by", "service_tier")]


@dataclass(frozen=True)
class Moved:
    """An archive in ``folder``, the records in it, and what the database answered before it was made."""

    folder: Path
    aged: Aged
    fates: list[Archived]
    details: dict[uuid.UUID, RequestDetail | None]
    pages: list[RequestPage]
    usage: list[list[UsageRow]]

    @property
    def filters(self) -> list[RequestFilter]:
        """Return the filters of the pages."""
        bounds = {
            "created_before": self.aged.second_week[4].started_at,
            "created_after": self.aged.first_week[3].started_at,
        }
        return filters_of(bounds)

    @property
    def window(self) -> dict[str, Any]:
        """Return the time of the sums."""
        return window_of(self.aged)


def filters_of(bounds: dict[str, Any]) -> list[RequestFilter]:
    """Return filters of one owner."""
    return [RequestFilter(created_by=OWNERS[1], **each) for each in (*FILTERS, bounds)]


def window_of(aged: Aged) -> dict[str, Any]:
    """Return a time that the old records are in, some of them at its edges."""
    return {"since": aged.first_week[1].started_at, "until": aged.second_week[-1].started_at}


async def moved_into(engine: AsyncEngine, folder: Path) -> Moved:
    """Ask the database everything, then move what is old into ``folder``."""
    now = datetime.now(UTC)
    await ensure(engine, since=now - timedelta(weeks=2))
    aged, store = aged_records(now), RequestStore(engine)
    await store.persist_completed([*aged.old, *aged.today])
    asked = Moved(folder, aged, [], {}, [], [])
    return Moved(
        folder=folder,
        aged=aged,
        details=await details(store, aged.old),
        pages=[await store.list_requests(each) for each in asked.filters],
        usage=[await store.usage(**asked.window, by=by) for by in GROUPS],
        fates=await archive_partitions(engine, now, folder, cuts=CUTS),
    )


def aged_records(now: datetime) -> Aged:
    """Return records of two past weeks and of now: of three owners, finished and failed, with and without facts."""
    monday = (now - timedelta(days=now.weekday())).replace(hour=12)
    first, second = (_week(monday - timedelta(weeks=ago)) for ago in (2, 1))
    return Aged(now, first, second, [record(created_by=OWNERS[0])])


def _week(monday: datetime) -> list[CompletedRequest]:
    return [_aged(monday + timedelta(hours=7 * number), number) for number in range(18)]


def _aged(began: datetime, number: int) -> CompletedRequest:
    times = {"started_at": began, "completed_at": began + timedelta(milliseconds=number * 100)}
    fields: dict[str, Any] = {
        "request_id": id_at(began),
        "created_by": OWNERS[number % 3],
        "model": f"model-{number % 2}",
        "status_code": 500 if number % 5 == 0 else 200,
        "request_body": f'{{"input":"question {number}"}}',
        "response_body": f'{{"output":"answer {number}, ü"}}',
    }
    if number % 2:
        fields |= {"custom_id": f"chatcmpl-{number}", "metadata": {"n": number, "even": False, "who": "ü"}}
    if number % 3:
        fields |= {"input_tokens": number, "output_tokens": 2, "first_token_at": began}
    make = renamed if number == 4 else record
    return make(**fields, **times)


async def details(store: RequestStore, records: Iterable[CompletedRequest]) -> dict[uuid.UUID, RequestDetail | None]:
    """Return what the store answers for each of the records."""
    return {each.request_id: await store.get_request(each.request_id) for each in records}


async def archived_details(
    archive: ArchiveStore, records: Iterable[CompletedRequest]
) -> dict[uuid.UUID, RequestDetail | None]:
    """Return what the archive answers for each of the records."""
    return {each.request_id: await archive.get_request(each.request_id) for each in records}


def owners_in(folder: Path) -> set[str]:
    """Return whoever has a row in any Parquet file below ``folder``, one that no manifest names included."""
    tables = [pq.read_table(path, columns=["created_by"]) for path in folder.rglob("cut-*.parquet")]
    return {owner for table in tables for owner in table["created_by"].to_pylist()}

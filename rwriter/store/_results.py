"""What the store answers with, and how rows and records become it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import msgspec
from sqlalchemy import RowMapping

from rwriter.records import CompletedRequest, NewRequest
from rwriter.schema import REALTIME_TIER

OK: Final = range(200, 300)
"""Statuses of completed requests; all others are failed."""

_TIMES: Final = ("created_at", "started_at", "completed_at", "failed_at")


class PersistResult(msgspec.Struct, frozen=True):
    """What ``persist_completed`` did with its records: ``inserted + updated + skipped`` is how many it was given."""

    inserted: int
    updated: int
    skipped: int


class RequestSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the listing. ``duration_ms`` is milliseconds from start to end, for completed and failed rows."""

    id: uuid.UUID
    batch_id: uuid.UUID | None
    model: str
    status: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    duration_ms: float | None
    response_status: int | None
    service_tier: str | None
    created_by: str
    path: str


class RequestDetail(RequestSummary, frozen=True, kw_only=True):
    """One request with both bodies and, for a failed one, the error envelope (JSON)."""

    body: str
    response_body: str | None
    error: str | None

    @classmethod
    def processing(cls, request: NewRequest, *, started_at: datetime) -> Self:
        """Return the row that ``create_realtime`` makes of ``request``: it is processed and has no answer yet."""
        nothing = dict.fromkeys(
            ("batch_id", "completed_at", "failed_at", "duration_ms", "response_status", "response_body", "error")
        )
        return cls(
            **nothing,
            id=request.request_id,
            model=request.model,
            status="processing",
            created_at=started_at,
            started_at=started_at,
            service_tier=REALTIME_TIER,
            created_by=request.created_by,
            path=request.path,
            body=request.body,
        )

    def __repr__(self) -> str:
        return f"RequestDetail(id={self.id}, status={self.status!r}, created_by={self.created_by!r})"


class RequestPage(msgspec.Struct, frozen=True):
    """One page of the listing. ``next_cursor`` is ``None`` on the last page."""

    data: list[RequestSummary]
    total_count: int
    total_is_estimate: bool
    next_cursor: str | None


def detail_of(record: CompletedRequest) -> RequestDetail:
    """The row that ``record`` will be, where nothing is stored under its id yet."""
    ok = record.status_code in OK
    fields: dict[str, Any] = {
        "started_at": record.started_at,
        "completed_at": record.completed_at if ok else None,
        "failed_at": None if ok else record.completed_at,
    }
    return RequestDetail(
        **fields,
        id=record.request_id,
        batch_id=None,
        model=record.model,
        status="completed" if ok else "failed",
        created_at=record.started_at,
        duration_ms=milliseconds(fields),
        response_status=record.status_code,
        service_tier=REALTIME_TIER,
        created_by=record.created_by,
        path=record.endpoint,
        body=record.request_body,
        response_body=record.response_body,
        error=None if ok else failure_envelope(record.status_code, record.response_body),
    )


def failure_envelope(status: int, body: str) -> str:
    """What ``requests.error`` holds for a response outside 200..299, as the daemon writes it."""
    details = {"status": status, "body": body}
    return msgspec.json.encode({"type": "NonRetriableHttpStatus", "details": details}).decode()


def aware(row: RowMapping | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    # the driver reads PostgreSQL's infinities as naive datetimes, and makes infinities of Python's first and last
    fields = dict(row)
    for name in _TIMES:
        time: datetime | None = fields[name]
        if time is not None and time.tzinfo is None:
            fields[name] = time.replace(tzinfo=UTC)
    return fields


def milliseconds(row: Mapping[str, Any]) -> float | None:
    started: datetime | None = row["started_at"]
    ended: datetime | None = row["completed_at"] or row["failed_at"]
    return None if started is None or ended is None else (ended - started) / timedelta(milliseconds=1)


def summary_of(fields: Mapping[str, Any]) -> RequestSummary:
    return RequestSummary(**fields, duration_ms=milliseconds(fields))

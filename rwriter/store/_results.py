"""The types that the store returns, and their constructors from rows and records."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Self

import msgspec
from sqlalchemy import RowMapping, Text, func, literal_column

from rwriter._values.answers import Answer
from rwriter._values.guarded import Guarded
from rwriter._values.texts import quoted
from rwriter.records import CompletedRequest, NewRequest, succeeded
from rwriter.schema import REALTIME_TIER, State, request_templates, requests

SUMMARY_COLUMNS: Final = (
    requests.c.id,
    requests.c.batch_id,
    requests.c.model,
    requests.c.state.label("status"),
    requests.c.created_at,
    requests.c.started_at,
    requests.c.completed_at,
    requests.c.failed_at,
    requests.c.response_status,
    requests.c.service_tier,
    requests.c.created_by,
    requests.c.input_tokens,
    requests.c.output_tokens,
    requests.c.cached_input_tokens,
    requests.c.reasoning_tokens,
    requests.c.first_token_at,
)
"""The columns of a ``RequestSummary``, but for its duration and what its template holds."""

TEMPLATE_COLUMNS: Final = (
    func.coalesce(request_templates.c.path, literal_column("''", Text())).label("path"),
    request_templates.c.metadata,
)
"""The columns of a ``RequestSummary`` that its template holds, if it has one."""

_TIMES: Final = ("created_at", "started_at", "completed_at", "failed_at", "first_token_at")


class PersistResult(Answer, frozen=True):
    """The answer of ``persist_completed``: ``inserted + updated + skipped`` is the number of records it was given.

    ``written`` holds the ids of the rows that it inserted or updated: each of them is one record of the call.
    """

    inserted: int
    updated: int
    skipped: int
    written: frozenset[uuid.UUID] = frozenset()


class Erasure(Answer, frozen=True):
    """The answer of ``erase``: how many requests and dead letters are gone.

    What the owner began up to ``erased_at`` is not written again, from wherever it comes.
    """

    requests: int
    dead_letters: int
    erased_at: datetime


class Purge(Answer, frozen=True):
    """The answer of ``purge``: how many requests and dead letters were deleted, or how many were emptied.

    ``remaining``: it stopped at its limit or its deadline, so that there may be more.
    """

    requests: int
    dead_letters: int
    remaining: bool


class RequestSummary(Guarded, Answer, frozen=True, kw_only=True):
    """A row of the listing. ``duration_ms`` is milliseconds from start to end, for completed and failed rows."""

    id: uuid.UUID
    batch_id: uuid.UUID | None
    model: str
    status: State
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    duration_ms: float | None
    response_status: int | None
    service_tier: str | None
    created_by: str
    path: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    first_token_at: datetime | None = None
    metadata: dict[str, Any] | None = None

    __shown__: ClassVar[tuple[str, ...]] = (
        "id",
        "status",
        "created_by",
        "model",
        "path",
        "created_at",
        "response_status",
    )


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


class RequestPage(Answer, frozen=True):
    """One page of the listing. ``next_cursor`` is ``None`` on the last page."""

    data: list[RequestSummary]
    total_count: int
    total_is_estimate: bool
    next_cursor: str | None


def detail_of(record: CompletedRequest) -> RequestDetail:
    """Return the row that ``record`` will be, where nothing is stored under its id yet."""
    ok = succeeded(record.status_code)
    fields: dict[str, Any] = {
        "started_at": record.started_at,
        "completed_at": record.completed_at if ok else None,
        "failed_at": None if ok else record.completed_at,
        "metadata": None if record.metadata is None else dict(record.metadata),
    }
    return RequestDetail(
        **fields,
        id=record.request_id,
        batch_id=None,
        model=record.model,
        status="completed" if ok else "failed",
        created_at=record.started_at,
        duration_ms=_milliseconds(fields),
        response_status=record.status_code,
        service_tier=REALTIME_TIER,
        created_by=record.created_by,
        path=record.endpoint,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cached_input_tokens=record.cached_input_tokens,
        reasoning_tokens=record.reasoning_tokens,
        first_token_at=record.first_token_at,
        body=record.request_body,
        response_body=record.response_body,
        error=None if ok else failure_envelope(record.status_code, record.response_body),
    )


def failure_envelope(status: int, body: str) -> str:
    """Return the JSON in ``requests.error`` for a response outside 200..299, as the daemon writes it.

    It quotes the first 64 KiB of the body: the whole stands in ``requests.response_body``.
    """
    details = {"status": status, "body": quoted(body)}
    return msgspec.json.encode({"type": "NonRetriableHttpStatus", "details": details}).decode()


def with_utc_times(
    row: RowMapping | Mapping[str, Any] | Iterable[tuple[str, Any]], times: Iterable[str] = _TIMES
) -> dict[str, Any]:
    """Return the fields of ``row``, each of the ``times`` among them aware."""
    # the driver reads PostgreSQL's infinities as naive datetimes, and makes infinities of Python's first and last
    fields = dict(row)
    for name in times:
        time: datetime | None = fields[name]
        if time is not None and time.tzinfo is None:
            fields[name] = time.replace(tzinfo=UTC)
    return fields


def _milliseconds(row: Mapping[str, Any]) -> float | None:
    started: datetime | None = row["started_at"]
    ended: datetime | None = row["completed_at"] or row["failed_at"]
    return None if started is None or ended is None else (ended - started) / timedelta(milliseconds=1)


def detail_of_row(row: RowMapping | Mapping[str, Any]) -> RequestDetail:
    """Return the detail in a row of the detail queries."""
    fields = with_utc_times(row)
    return RequestDetail(**fields, duration_ms=_milliseconds(fields))


def summary_of(fields: Mapping[str, Any]) -> RequestSummary:
    """Return the summary with these fields, its duration added."""
    return RequestSummary(**fields, duration_ms=_milliseconds(fields))

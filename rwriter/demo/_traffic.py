"""The demo's traffic: the pairs of ``traffic.jsonl.gz``, the records made of them, and the rows expected of those."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from rwriter import CompletedRequest, RequestDetail, RequestSummary, new_request_id
from rwriter.records import succeeded

TRAFFIC: Final = Path(__file__).with_name("traffic.jsonl.gz")

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A line of the file. Two lines with one ``request_id`` are a retry: the first answer is stored.

    ``offset_ms``: milliseconds since the first request of the file. ``realtime``: begun with ``create_realtime``.
    """

    request_id: str
    offset_ms: int
    duration_ms: int
    status_code: int
    endpoint: str
    model: str
    api_key: str = dataclasses.field(repr=False)
    created_by: str
    realtime: bool
    request_body: str = dataclasses.field(repr=False)
    response_body: str = dataclasses.field(repr=False)
    custom_id: str | None = None


class Sent(NamedTuple):
    """A pair, and the record of it that is sent in one round."""

    pair: Pair
    record: CompletedRequest


def load_traffic() -> list[Pair]:
    """Return the pairs of the shipped file. Only ``json`` reads it: stricter parsers refuse a lone surrogate."""
    with gzip.open(TRAFFIC, "rt", encoding="utf-8", newline="\n") as lines:
        return [Pair(**json.loads(line)) for line in lines]


def send_rounds(pairs: Sequence[Pair], rounds: int) -> list[Sent]:
    """Return records of the pairs, ``rounds`` times over under fresh ids and up to the present, in sending order.

    Their ``created_by`` names this run, so that its rows can be told from those of others.
    """
    run = uuid.uuid4().hex[:8]
    span = timedelta(milliseconds=max(pair.offset_ms + pair.duration_ms for pair in pairs))
    now = datetime.now(UTC)
    return [sent for ago in range(rounds, 0, -1) for sent in _round(pairs, run, now - ago * span)]


def _round(pairs: Sequence[Pair], run: str, began: datetime) -> list[Sent]:
    # a pair and its twin share an id in this round too
    ids = {pair.request_id: new_request_id() for pair in pairs}
    return [Sent(pair, _record(pair, ids[pair.request_id], run, began)) for pair in pairs]


def _record(pair: Pair, request_id: uuid.UUID, run: str, began: datetime) -> CompletedRequest:
    started_at = began + timedelta(milliseconds=pair.offset_ms)
    return CompletedRequest(
        request_id=request_id,
        status_code=pair.status_code,
        response_body=pair.response_body,
        request_body=pair.request_body,
        model=pair.model,
        endpoint=pair.endpoint,
        api_key=pair.api_key,
        created_by=f"{pair.created_by}/{run}",
        started_at=started_at,
        completed_at=started_at + timedelta(milliseconds=pair.duration_ms),
        custom_id=pair.custom_id,
    )


def repaired(body: str) -> str:
    """Return ``body`` as PostgreSQL can hold it; not the library's own function, which would prove nothing."""
    return _UNSTORABLE.sub("\ufffd", body)


def summary_faults(row: RequestSummary, sent: Sent) -> list[str]:
    """Return the columns of a listed row that are not as they should be."""
    pair, record = sent
    good = succeeded(pair.status_code)
    expected: dict[str, object] = {
        "id": record.request_id,
        "status": "completed" if good else "failed",
        "response_status": pair.status_code,
        "model": pair.model,
        "path": pair.endpoint,
        "created_by": record.created_by,
        "service_tier": "priority",
    }
    if not pair.realtime:  # those keep the time at which their row was begun
        expected |= {
            "created_at": record.started_at,
            "started_at": record.started_at,
            "completed_at": record.completed_at if good else None,
            "failed_at": None if good else record.completed_at,
            "duration_ms": pair.duration_ms,
        }
    return [name for name, value in expected.items() if getattr(row, name) != value]


def body_faults(row: RequestDetail, sent: Sent) -> list[str]:
    """Return the texts of a row that was read back which are not as they should be."""
    pair = sent.pair
    body, answer = repaired(pair.request_body), repaired(pair.response_body)
    envelope = {"type": "NonRetriableHttpStatus", "details": {"status": pair.status_code, "body": answer}}
    error = None if row.error is None else json.loads(row.error)
    checks = {
        "body": row.body == body,
        "response_body": row.response_body == answer,
        "error": error == (None if succeeded(pair.status_code) else envelope),
    }
    return [name for name, right in checks.items() if not right]

"""Make records to write. Every default is fixed but the id, so that tests can expect them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rwriter import CompletedRequest, NewRequest, new_request_id
from rwriter.records import RenamedRequest
from rwriter.schema import first_id

STARTED: Final = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
TOOK: Final = timedelta(milliseconds=1234.5)


def id_at(moment: datetime) -> uuid.UUID:
    """Return a fresh UUIDv7 that was made at ``moment``."""
    randomness = new_request_id().int & ((1 << 80) - 1)
    return uuid.UUID(int=first_id(moment).int | randomness)


def record(**changes: Any) -> CompletedRequest:
    """Return a completed request with a fresh id; ``changes`` are fields of ``CompletedRequest``."""
    fields: dict[str, Any] = {
        "request_id": new_request_id(),
        "status_code": 200,
        "request_body": '{"input":"hello"}',
        "response_body": '{"object":"response"}',
        "model": "gpt-test",
        "endpoint": "/v1/responses",
        "api_key": "sk-test",
        "created_by": "tenant-a",
        "started_at": STARTED,
        "completed_at": STARTED + TOOK,
    }
    return CompletedRequest(**(fields | changes))


def new_request(**changes: Any) -> NewRequest:
    """Return a request that begins now, by another tenant; ``changes`` are fields of ``NewRequest``."""
    fields: dict[str, Any] = {
        "request_id": new_request_id(),
        "body": '{"model":"gpt-5-mini","input":"begun"}',
        "model": "gpt-5-mini",
        "endpoint": "https://upstream.example",
        "method": "PUT",
        "path": "/v1/chat/completions",
        "api_key": "sk-another-key",
        "created_by": "tenant-b",
    }
    return NewRequest(**(fields | changes))


def renamed(**changes: Any) -> RenamedRequest:
    """Return a record whose client has seen two ids of the answer, ``resp_first`` and ``resp_last``."""
    made = record(**{"custom_id": "resp_last"} | {key: value for key, value in changes.items() if key != "first_id"})
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    return RenamedRequest(**fields, first_id=changes.get("first_id", "resp_first"))

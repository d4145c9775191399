"""Records for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rwriter import CompletedRequest, new_request_id


def record(**changes: Any) -> CompletedRequest:
    """A completed request with a fresh id, finished just now after two seconds."""
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "request_id": new_request_id(),
        "status_code": 200,
        "response_body": '{"object":"response"}',
        "request_body": '{"input":"hello"}',
        "model": "gpt-test",
        "endpoint": "/v1/responses",
        "api_key": "sk-test",
        "created_by": "tester",
        "started_at": now - timedelta(seconds=2),
        "completed_at": now,
    }
    return CompletedRequest(**(fields | changes))

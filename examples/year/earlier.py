"""Rows as the first release wrote them: before tokens and facts had columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import CompletedRequest

_TEMPLATE: Final = text(
    """
    INSERT INTO request_templates (id, endpoint, method, path, model, api_key, body, body_byte_size)
    VALUES (:request_id, '', 'POST', :endpoint, :model, :api_key, :request_body, octet_length(:request_body))
    """
)
_REQUEST: Final = text(
    """
    INSERT INTO requests (id, template_id, model, state, response_status, response_body, response_size, service_tier,
        created_by, daemon_id, created_at, claimed_at, started_at, completed_at)
    VALUES (:request_id, :request_id, :model, 'completed', :status_code, :response_body, octet_length(:response_body),
        'priority', :created_by, '00000000-0000-0000-0000-000000000000', :started_at, :started_at, :started_at,
        :completed_at)
    """
)


async def store_as_the_first_release(
    engine: AsyncEngine, records: Sequence[CompletedRequest]
) -> list[CompletedRequest]:
    """Insert those of ``records`` that succeeded, and return them as they are stored: without tokens."""
    kept = [
        msgspec.structs.replace(record, input_tokens=None, output_tokens=None)
        for record in records
        if record.status_code == 200  # noqa: PLR2004 -- the status of an answer
    ]
    rows = [{name: getattr(record, name) for name in record.__struct_fields__} for record in kept]
    async with engine.begin() as connection:
        for statement in (_TEMPLATE, _REQUEST):
            names = set(statement.compile().params)
            await connection.execute(statement, [{name: row[name] for name in names} for row in rows])
    return kept

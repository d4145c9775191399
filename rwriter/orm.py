"""The tables of ``rwriter.schema`` mapped imperatively, for services that read through a SQLAlchemy ``Session``.

Write through ``RequestsWriter`` or ``RequestStore``: an ORM flush knows nothing of which rows may be touched.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy.orm import registry, relationship

from rwriter import schema

mapper_registry = registry(metadata=schema.metadata)


class RequestTemplate:
    """A row of ``request_templates``: what was asked."""

    id: uuid.UUID
    file_id: uuid.UUID | None
    custom_id: str | None
    endpoint: str
    method: str
    path: str
    model: str
    api_key: str
    body: str
    body_byte_size: int
    line_number: int
    created_at: datetime
    updated_at: datetime


class Request:
    """A row of ``requests``: what became of it. ``template`` is loaded lazily; await it by ``selectinload``."""

    id: uuid.UUID
    batch_id: uuid.UUID | None
    template_id: uuid.UUID | None
    model: str
    custom_id: str | None
    state: str
    retry_attempt: int
    not_before: datetime | None
    daemon_id: uuid.UUID | None
    claimed_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    canceled_at: datetime | None
    response_status: int | None
    response_body: str | None
    response_size: int
    error: str | None
    routed_model: str | None
    service_tier: str | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    template: RequestTemplate | None


mapper_registry.map_imperatively(RequestTemplate, schema.request_templates)
mapper_registry.map_imperatively(
    Request,
    schema.requests,
    properties={"template": relationship(RequestTemplate, passive_deletes=True)},
)

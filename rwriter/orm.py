"""The tables of ``rwriter.schema`` mapped imperatively, for services that read through a SQLAlchemy ``Session``.

Write through ``RequestsWriter`` or ``RequestStore``: an ORM flush does not know which rows it may touch.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import Mapped, registry, relationship

from rwriter import schema

mapper_registry: registry = registry(metadata=schema.metadata)


def _shown(row: object, *names: str) -> str:
    """Return the ``repr`` of these columns, so far as they are loaded: no body and no key."""
    # not getattr: an attribute that is not loaded would be asked for
    loaded = vars(row)
    return f"{type(row).__name__}({', '.join(f'{name}={loaded[name]!r}' for name in names if name in loaded)})"


class RequestTemplate(AsyncAttrs):
    """A row of ``request_templates``: the request as the client sent it."""

    def __repr__(self) -> str:
        return _shown(self, "id", "method", "path", "model")

    id: Mapped[uuid.UUID]
    file_id: Mapped[uuid.UUID | None]
    custom_id: Mapped[str | None]
    endpoint: Mapped[str]
    method: Mapped[str]
    path: Mapped[str]
    model: Mapped[str]
    api_key: Mapped[str]
    body: Mapped[str]
    body_byte_size: Mapped[int]
    line_number: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    metadata: Mapped[dict[str, Any] | None]


class Request(AsyncAttrs):
    """A row of ``requests``: its state and response.

    ``template`` is lazy: load it with ``selectinload``, or await ``request.awaitable_attrs.template``.
    """

    def __repr__(self) -> str:
        return _shown(self, "id", "state", "created_by", "model", "created_at", "response_status")

    id: Mapped[uuid.UUID]
    batch_id: Mapped[uuid.UUID | None]
    template_id: Mapped[uuid.UUID | None]
    model: Mapped[str]
    custom_id: Mapped[str | None]
    state: Mapped[schema.State]
    retry_attempt: Mapped[int]
    not_before: Mapped[datetime | None]
    daemon_id: Mapped[uuid.UUID | None]
    claimed_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    canceled_at: Mapped[datetime | None]
    response_status: Mapped[int | None]
    response_body: Mapped[str | None]
    response_size: Mapped[int]
    error: Mapped[str | None]
    routed_model: Mapped[str | None]
    service_tier: Mapped[str | None]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    input_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    cached_input_tokens: Mapped[int | None]
    reasoning_tokens: Mapped[int | None]
    first_token_at: Mapped[datetime | None]
    template: Mapped[RequestTemplate | None]


mapper_registry.map_imperatively(RequestTemplate, schema.request_templates)
mapper_registry.map_imperatively(
    Request,
    schema.requests,
    properties={"template": relationship(RequestTemplate, passive_deletes=True)},
)

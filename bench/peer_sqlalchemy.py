"""Peers over SQLAlchemy: a session for every record, and upserts of many rows at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from bench.batches import Store, rows
from rwriter import CompletedRequest
from rwriter.orm import Request, RequestTemplate
from rwriter.schema import request_templates, requests

_TEMPLATES: Final = insert(request_templates).on_conflict_do_nothing(index_elements=[request_templates.c.id])
_INSERT: Final = insert(requests)
_REQUESTS: Final = _INSERT.on_conflict_do_update(
    index_elements=[requests.c.id],
    set_={
        name: _INSERT.excluded[name]
        for name in ("state", "completed_at", "response_status", "response_body", "response_size")
    },
    where=requests.c.state == "processing",
)


def upsert_many(engine: AsyncEngine, *, values: bool) -> Store:
    """Two executes a batch with a list of rows each.

    With ``values`` the statements return something, for which SQLAlchemy sends many rows in one ``INSERT ... VALUES``
    ("insertmanyvalues"); without, it hands the list to the driver's ``executemany``.
    """
    templates = _TEMPLATES.returning(request_templates.c.id) if values else _TEMPLATES
    finished = _REQUESTS.returning(requests.c.id) if values else _REQUESTS

    async def store(batch: Sequence[CompletedRequest]) -> None:
        pairs = [rows(record) for record in batch]
        async with engine.begin() as connection:
            await connection.execute(templates, [template for template, _ in pairs])
            await connection.execute(finished, [request for _, request in pairs])

    return store


def session_each(engine: AsyncEngine) -> Callable[[CompletedRequest], Awaitable[None]]:
    """What most services do: a session and a commit for every request."""
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def store(record: CompletedRequest) -> None:
        async with sessions() as session:
            session.add(_mapped(record))
            await session.commit()

    return store


def _mapped(record: CompletedRequest) -> Request:
    template_values, values = rows(record)
    template, request = RequestTemplate(), Request()
    for instance, columns in ((template, template_values), (request, values)):
        for name, value in columns.items():
            setattr(instance, name, value)
    request.template = template
    return request

"""Peers over SQLAlchemy: a session for every record, and upserts of many rows at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker

from bench.database import Database
from bench.peers.common import FINISHED_COLUMNS, Open, Peer, Setting, in_batches, in_turns, rows
from rwriter import CompletedRequest
from rwriter.orm import Request, RequestTemplate
from rwriter.schema import request_templates, requests

_TEMPLATES: Final = insert(request_templates).on_conflict_do_nothing(index_elements=[request_templates.c.id])
_INSERT: Final = insert(requests)
_REQUESTS: Final = _INSERT.on_conflict_do_update(
    index_elements=[requests.c.id],
    set_={name: _INSERT.excluded[name] for name in FINISHED_COLUMNS},
    where=requests.c.state == "processing",
)


def upsert_many(*, values: bool) -> Open:
    """Return the peer of two executes a batch, with a list of rows each.

    With ``values`` the statements return something, for which SQLAlchemy sends many rows in one ``INSERT ... VALUES``
    ("insertmanyvalues"); without, it hands the list to the driver's ``executemany``.
    """
    templates = _TEMPLATES.returning(request_templates.c.id) if values else _TEMPLATES
    finished = _REQUESTS.returning(requests.c.id) if values else _REQUESTS

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Peer]:
        async with database.engine(setting.flushes) as engine:

            async def store(batch: Sequence[CompletedRequest]) -> None:
                pairs = [rows(record) for record in batch]
                async with engine.begin() as connection:
                    await connection.execute(templates, [template for template, _ in pairs])
                    await connection.execute(finished, [request for _, request in pairs])

            yield in_batches([store] * setting.flushes, setting)

    return opened


def session_each(at_once: int, share: float) -> Open:
    """Return what most services do: a session and a commit for every request, ``at_once`` of them in flight."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, _: Setting) -> AsyncIterator[Peer]:
        async with database.engine(at_once) as engine:
            sessions = async_sessionmaker(engine, expire_on_commit=False)

            async def store(record: CompletedRequest) -> None:
                async with sessions() as session:
                    session.add(_mapped(record))
                    await session.commit()

            yield Peer(at_once, lambda records: in_turns([store] * at_once, records), share)

    return opened


def _mapped(record: CompletedRequest) -> Request:
    template_values, values = rows(record)
    template, request = RequestTemplate(), Request()
    for instance, columns in ((template, template_values), (request, values)):
        for name, value in columns.items():
            setattr(instance, name, value)
    request.template = template
    return request

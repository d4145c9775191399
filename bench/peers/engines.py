"""Peers over SQLAlchemy: the writer itself, a session for every record, and upserts of many rows at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker

from bench.database import Database
from bench.peers.common import FINISHED_COLUMNS, Open, Peer, Setting, Work, in_batches, in_turns, rows
from rwriter import CompletedRequest, RequestsWriter
from rwriter.orm import Request, RequestTemplate
from rwriter.schema import request_templates, requests


@contextlib.asynccontextmanager
async def writer(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    """Open ``RequestsWriter`` with its default options, but for what the setting varies."""
    async with (
        database.engines(setting.flushes) as engines,
        RequestsWriter(engines, batch_size=setting.batch, flush_concurrency=setting.flushes) as opened,
    ):
        yield Peer(lambda records: _sent(opened, records, setting.batch))


def _sent(opened: RequestsWriter, records: Sequence[CompletedRequest], batch: int) -> Work:
    """Return work from the first ``send`` to the last commit."""

    async def send_all() -> None:
        for number, record in enumerate(records, 1):
            await opened.send(record)
            if number % batch == 0:
                # send() only suspends when the buffer is full; a service's handlers come and go in between
                await asyncio.sleep(0)
        await opened.flush()

    return send_all


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

            yield Peer(lambda records: in_turns([store] * at_once, records), share)

    return opened


def _mapped(record: CompletedRequest) -> Request:
    template, request = RequestTemplate(), Request()
    for instance, columns in zip((template, request), rows(record), strict=True):
        for name, value in columns.items():
            setattr(instance, name, value)
    request.template = template
    return request

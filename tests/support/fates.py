"""Tell where records ended: as rows, as dead letters, and in the writer's account."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import select

from rwriter import CompletedRequest, WriterStats
from rwriter.engines import EngineProvider
from rwriter.records import decode_record
from rwriter.schema import dead_letters, requests


def balanced(stats: WriterStats) -> bool:
    """Return True if every accepted record has exactly one fate or is pending."""
    fates = stats.persisted + stats.skipped + stats.dead + stats.spooled + stats.dropped
    return stats.accepted == fates + stats.pending


def ids(records: Iterable[CompletedRequest]) -> set[UUID]:
    """Return the ids of ``records``."""
    return {item.request_id for item in records}


async def stored(engines: EngineProvider) -> set[UUID]:
    """Return the ids of all rows."""
    async with engines.write.connect() as connection:
        return set((await connection.execute(select(requests.c.id))).scalars())


async def letters(engines: EngineProvider) -> list[tuple[CompletedRequest, str, str]]:
    """Return each dead letter as its record, the SQLSTATE and the text of the error."""
    query = select(dead_letters.c.payload, dead_letters.c.sqlstate, dead_letters.c.error)
    async with engines.write.connect() as connection:
        rows = (await connection.execute(query)).all()
    return [(decode_record(row.payload), row.sqlstate, row.error) for row in rows]

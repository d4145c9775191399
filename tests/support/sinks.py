"""Sinks that are no database: one in memory, and what a database keeps of the records that any sink took."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import CompletedRequest, PersistResult
from rwriter._values.keys import KeyDigest
from rwriter.records import decode_record
from rwriter.schema import dead_letters, request_templates, requests
from rwriter.testing import Kept

SAME = ("custom_id", "input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "first_token_at")


class MemorySink:
    """Keeps records in dictionaries. Each of ``failures`` is raised by one call of ``persist_completed``, in order."""

    def __init__(self, *failures: Exception) -> None:
        self.stored: dict[uuid.UUID, CompletedRequest] = {}
        self.buried: dict[uuid.UUID, CompletedRequest] = {}
        self.reasons: dict[uuid.UUID, tuple[str | None, str]] = {}
        self.failures = list(failures)
        self.refusal: Exception | None = None
        self.calls = 0

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        self.calls += 1
        batch = list(records)
        if self.failures:
            raise self.failures.pop(0)
        if self.refusal is not None and any(record.response_body == "bad" for record in batch):
            raise self.refusal
        new = {record.request_id: record for record in reversed(batch) if record.request_id not in self.stored}
        self.stored |= new
        return PersistResult(len(new), 0, len(batch) - len(new), frozenset(new))

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        self.buried[record.request_id] = record
        self.reasons[record.request_id] = sqlstate, error

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        return set(ids) & set(self.stored)

    async def check_schema(self) -> None:
        pass

    async def identity(self) -> str:
        return "memory"

    async def kept(self) -> Kept:
        return Kept(list(self.stored.values()), list(self.buried.values()))


async def kept_in(engine: AsyncEngine) -> Kept:
    """Return the records that the rows of a database were made of, and those in its dead letters."""
    tables = requests.outerjoin(request_templates, requests.c.template_id == request_templates.c.id)
    columns = [*requests.c, *(column.label(f"template_{column.name}") for column in request_templates.c)]
    async with engine.connect() as connection:
        rows = (await connection.execute(select(*columns).select_from(tables))).mappings().all()
        letters = (await connection.execute(select(dead_letters.c.payload))).scalars().all()
    return Kept([_record(row) for row in rows], [decode_record(payload) for payload in letters])


def _record(row: Any) -> CompletedRequest:
    return CompletedRequest(
        request_id=row["id"],
        status_code=row["response_status"],
        response_body=row["response_body"],
        request_body=row["template_body"],
        model=row["model"],
        endpoint=row["template_path"],
        api_key=KeyDigest(row["template_api_key"]),
        created_by=row["created_by"],
        started_at=row["started_at"],
        completed_at=row["completed_at"] or row["failed_at"],
        metadata=row["template_metadata"],
        **{name: row[name] for name in SAME},
    )

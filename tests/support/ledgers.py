"""A writer with a ledger, and the findings of an audit as a test expects them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from rwriter import CompletedRequest, RequestsWriter
from rwriter.ledger import Audit, audit
from rwriter.testing import TestDbEngines
from tests.support.records import record


@contextlib.asynccontextmanager
async def writing(engines: Any, **options: Any) -> AsyncIterator[RequestsWriter]:
    """Open a writer with a ledger, of small batches."""
    chosen: dict[str, Any] = {"batch_size": 5, "ledger": True}
    async with RequestsWriter(engines, **(chosen | options)) as writer:
        yield writer


async def written(engines: Any, number: int = 20, **options: Any) -> list[CompletedRequest]:
    """Store that many records through a writer that opens and closes, and return them."""
    async with writing(engines, **options) as writer:
        now = datetime.now(UTC)
        records = [record(started_at=now, completed_at=now) for _ in range(number)]
        for each in records:
            await writer.send(each)
    assert writer.stats.persisted == number
    return records


def found(report: Audit) -> dict[str, int]:
    """Return how many of each kind the audit found."""
    numbers: dict[str, int] = {}
    for finding in report.findings:
        numbers[finding.kind] = numbers.get(finding.kind, 0) + finding.number
    return numbers


async def findings(engines: TestDbEngines, **options: Any) -> dict[str, int]:
    """Audit the database, and return how many of each kind it found."""
    return found(await audit(engines, **options))


async def execute(engines: TestDbEngines, *statements: str) -> int:
    """Run statements in one transaction, as somebody with the database in hand, and return the last one's rows."""
    number = 0
    async with engines.write.begin() as connection:
        for statement in statements:
            number = (await connection.execute(text(statement))).rowcount
    return number

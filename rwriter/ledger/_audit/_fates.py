"""Fates that left no row of their entry's, and rows that no entry knows: each one question to the database."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter.ledger._audit._findings import Audit, FindingKind

SLACK: Final = timedelta(days=1)
"""An entry is written after its records began, by another clock."""

# Each part in brackets is a list of ids that is hashed: a lateral unnest() would be read anew for each record.
_FATES: Final = text(
    """
    SELECT l.writer_id, l.kind, min(l.seq) AS first, max(l.seq) AS last, count(*) AS number,
        (array_agg(l.id ORDER BY l.id))[1:5] AS ids
    FROM (
        SELECT writer_id, seq, kind, skipped, unnest(ids) AS id FROM ledger
        WHERE kind IN ('dead', 'spooled', 'dropped') AND writer_id BETWEEN :first AND :last AND at >= :since
    ) l
    WHERE (l.skipped IS NULL OR l.id <> ALL (l.skipped))
        AND NOT EXISTS (SELECT FROM requests r WHERE r.id = l.id)
        AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.request_id = l.id)
        AND NOT EXISTS (
            SELECT FROM (
                SELECT unnest(ids) AS id FROM ledger WHERE kind IN ('erased', 'purged', 'archived', 'skipped')
                UNION ALL SELECT unnest(skipped) FROM ledger WHERE skipped IS NOT NULL
            ) g WHERE g.id = l.id)
        AND NOT EXISTS (
            SELECT FROM ledger g WHERE g.kind IN ('erased', 'purged', 'archived') AND g.account ? 'below'
                AND l.id >= CAST(g.account ->> 'from' AS uuid) AND l.id < CAST(g.account ->> 'below' AS uuid))
    GROUP BY l.writer_id, l.kind ORDER BY l.writer_id, l.kind
    """
)

_KINDS: Final[dict[str, FindingKind]] = {
    "dead": "missing_letter",
    "spooled": "still_spooled",
    "dropped": "dropped",
}

# Rows of realtime requests that are finished, and not failed by the library itself, without a writer. First their ids,
# from an index alone; hardly any is left to be looked at.
_UNRECORDED: Final = text(
    """
    WITH unknown AS MATERIALIZED (
        SELECT r.id FROM requests r
        WHERE r.created_by IS NOT NULL AND r.created_at >= :since AND NOT EXISTS (
            SELECT FROM (
                SELECT unnest(ids) AS id FROM ledger
                WHERE kind IN ('stored', 'replayed', 'dead', 'spooled') AND at >= :entries_since
            ) l WHERE l.id = r.id)
    )
    SELECT r.created_at < (SELECT min(at) FROM ledger) AS older, count(*) AS number,
        (array_agg(r.id ORDER BY r.id))[1:5] AS ids
    FROM unknown u JOIN requests r ON r.id = u.id
    WHERE r.service_tier = 'priority' AND r.batch_id IS NULL AND r.created_by <> ''
        AND r.state IN ('completed', 'failed') AND NOT coalesce(starts_with(r.error, '{"type":"Abandoned"'), false)
    GROUP BY 1
    """
)

_ROWS: Final = text("SELECT count(*) FROM requests WHERE created_by IS NOT NULL AND created_at >= :since")


async def check_fates(connection: AsyncConnection, report: Audit, bounds: dict[str, Any]) -> None:
    """Report dead letters that are gone, records that a spool kept, and records that were dropped."""
    for row in await connection.execute(_FATES, bounds):
        report.found(_KINDS[row.kind], row.writer_id, row.first, number=row.number, ids=row.ids)
        report.found(_KINDS[row.kind], row.writer_id, row.last, number=0)


async def check_rows(connection: AsyncConnection, report: Audit, since: datetime) -> None:
    """Report rows that are in no ledger, and count those that are older than it."""
    parameters = {"since": since, "entries_since": max(since, since.min.replace(tzinfo=since.tzinfo) + SLACK) - SLACK}
    for row in await connection.execute(_UNRECORDED, parameters):
        if row.older:
            report.older = row.number
        else:
            report.found("unrecorded_row", number=row.number, ids=row.ids)
    report.rows = (await connection.execute(_ROWS, {"since": since})).scalar_one()

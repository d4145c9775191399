"""Fates that left no row of their entry's, and rows that no entry knows: each one question to the database."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter.ledger._audit._findings import Audit, FindingKind

SLACK: Final = timedelta(days=1)
"""An entry is written after its records began, by another clock."""

_FATES: Final = text(
    """
    SELECT l.writer_id, l.kind, min(l.seq) AS first, max(l.seq) AS last, count(*) AS number,
        (array_agg(u.id ORDER BY u.id))[1:5] AS ids
    FROM ledger l CROSS JOIN unnest(l.ids) AS u (id)
    WHERE l.kind IN ('dead', 'spooled', 'dropped') AND l.writer_id BETWEEN :first AND :last AND l.at >= :since
        AND (l.skipped IS NULL OR u.id <> ALL (l.skipped))
        AND NOT EXISTS (SELECT FROM requests r WHERE r.id = u.id)
        AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.request_id = u.id)
        AND NOT EXISTS (
            SELECT FROM ledger g CROSS JOIN unnest(g.ids) AS x (id)
            WHERE g.kind IN ('erased', 'purged', 'archived', 'skipped') AND x.id = u.id)
        AND NOT EXISTS (
            SELECT FROM ledger g CROSS JOIN unnest(g.skipped) AS x (id) WHERE g.skipped IS NOT NULL AND x.id = u.id)
        AND NOT EXISTS (
            SELECT FROM ledger g WHERE g.kind IN ('erased', 'purged', 'archived') AND g.account ? 'below'
                AND u.id >= CAST(g.account ->> 'from' AS uuid) AND u.id < CAST(g.account ->> 'below' AS uuid))
    GROUP BY l.writer_id, l.kind ORDER BY l.writer_id, l.kind
    """
)

_KINDS: Final[dict[str, FindingKind]] = {
    "dead": "missing_letter",
    "spooled": "still_spooled",
    "dropped": "dropped",
}

# Rows of realtime requests that are finished. Those that the library itself failed, without a writer, say so.
_UNRECORDED: Final = text(
    """
    SELECT r.created_at < (SELECT min(at) FROM ledger) AS older, count(*) AS number,
        (array_agg(r.id ORDER BY r.id))[1:5] AS ids
    FROM requests r
    WHERE r.service_tier = 'priority' AND r.batch_id IS NULL AND r.created_by <> '' AND r.created_at >= :since
        AND r.state IN ('completed', 'failed')
        AND NOT coalesce(starts_with(r.error, '{"type":"Abandoned"'), false)
        AND NOT EXISTS (
            SELECT FROM ledger l CROSS JOIN unnest(l.ids) AS u (id)
            WHERE l.kind IN ('stored', 'replayed', 'dead', 'spooled') AND l.at >= :entries_since AND u.id = r.id)
    GROUP BY 1
    """
)

_ROWS: Final = text("SELECT count(*) FROM requests WHERE created_at >= :since")


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

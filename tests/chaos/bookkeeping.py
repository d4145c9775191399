"""Account for every record: in the database by plain SQL, and in the spool's file."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from rwriter import DbEngines
from rwriter.ledger import audit
from rwriter.spool._file import FILE_NAME

PATIENCE: Final = 60.0

# a request without its template, or one that is not finished: half a row
HALF_REQUESTS: Final = """
SELECT count(*) FROM requests r LEFT JOIN request_templates t ON t.id = r.template_id
WHERE t.id IS NULL OR t.body = '' OR r.state <> 'completed' OR r.response_body IS NULL OR r.completed_at IS NULL
"""
# a template nobody points to, which a duplicate of one would be too
ORPHANED_TEMPLATES: Final = """
SELECT count(*) FROM request_templates t WHERE NOT EXISTS (SELECT FROM requests r WHERE r.template_id = t.id)
"""
SHARED_TEMPLATES: Final = "SELECT count(template_id) - count(DISTINCT template_id) FROM requests"


class Outcome(msgspec.Struct, kw_only=True):
    """One line of the table of faults. ``offered`` counts the records that ``send`` returned for."""

    fault: str
    offered: int
    stored: int
    dead: int
    spooled: int
    lost: int
    note: str = ""


async def ask(url: str, query: str) -> list[Any]:
    """Return the first column of ``query``'s rows."""
    connection = await asyncpg.connect(url, timeout=PATIENCE)
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def tell(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    connection = await asyncpg.connect(url, timeout=PATIENCE)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def stored_ids(url: str) -> set[str]:
    """Return the ids of all rows."""
    return set(await ask(url, "SELECT id::text FROM requests"))


async def tally(fault: str, told: Iterable[str], url: str, *spools: Path, note: str = "") -> Outcome:
    """Count where the ``told`` records are now. Fails if any row is without its template, or the reverse."""
    offered = set(told)
    stored = await stored_ids(url)
    dead = set(await ask(url, "SELECT request_id::text FROM dead_letters"))
    spooled = {identity for folder in spools for identity in await asyncio.to_thread(spooled_ids, folder)}
    for query in (HALF_REQUESTS, ORPHANED_TEMPLATES, SHARED_TEMPLATES):
        assert await ask(url, query) == [0], query
    return Outcome(
        fault=fault,
        offered=len(offered),
        stored=len(offered & stored),
        dead=len(offered & dead),
        spooled=len(offered & spooled - stored - dead),
        lost=len(offered - stored - dead - spooled),
        note=note,
    )


async def audited(url: str) -> str:
    """Audit the ledger of a scenario that has ended, fail if it finds anything, and return how much it compared."""
    async with DbEngines.from_url(url) as engines:
        report = await audit(engines, bodies=True)
    assert report.exit_code == 0, "\n".join(map(str, report.findings)) or "there is no ledger"
    return f"{report.entries} entries of {report.writers} writers"


def spooled_ids(folder: Path) -> list[str]:
    """Return the ids in a spool's file, those set aside included, as any SQLite reader sees them."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    file = sqlite3.connect(path, timeout=PATIENCE)
    try:
        query = "SELECT request_id FROM records UNION ALL SELECT request_id FROM set_aside"
        return [str(uuid.UUID(bytes=identity)) for (identity,) in file.execute(query)]
    finally:
        file.close()

"""Play neighbours: a NAT that forgets, a cleaner of files, a bit that flips, a daemon's upkeep."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from pathlib import Path
from typing import Final

from rwriter.spool._file import FILE_NAME
from tests.chaos.bookkeeping import Outcome, ask, tally, tell
from tests.chaos.ground import Ground, chance, quick
from tests.chaos.service import Orders
from tests.support.faults import proxy_to

_WRONG: Final = "SELECT count(*) FROM requests WHERE response_body !~ '^x*[0-9]+$' OR created_by <> 'tenant-a'"
_PAGE: Final = 4_096
_ROWS_OF_A_PAGE: Final = 40
"""More than a page of the file has of these records."""

# what a daemon's upkeep does to rows that have been in processing for too long, whoever began them
_PUT_BACK: Final = """
UPDATE requests SET state = 'pending', daemon_id = NULL, claimed_at = NULL, started_at = NULL
WHERE state IN ('processing', 'claimed')
"""


async def lines_forgotten(ground: Ground, *, times: int) -> Outcome:
    """Let the connections there are go silent, again and again, while new ones work: each time one flush waits."""
    url = await ground.database()
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(url), statement_timeout=1.0, writer=quick(max_retries=3))
        async with ground.service(orders) as service:
            for _ in range(times):
                await service.until_stored(100)
                proxy.forget()
            await service.until_stored(100)
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    outcome = await tally("idle lines forgotten", service.told, url, note=f"{times} times")
    assert (outcome.lost, report.stats.dropped) == (0, 0), outcome
    return outcome


async def spool_removed(ground: Ground, *, records: int) -> Outcome:
    """Remove the file of a journaling service's spool in an outage: what was in the open file is kept, too."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), journal=True, writer=quick())
        proxy.cut()
        async with ground.service(orders) as service:
            await service.until_told(records)
            await asyncio.to_thread((spool / FILE_NAME).unlink)
            await service.until_told(records)
            proxy.heal()
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    outcome = await tally("the spool's file removed", service.told, url, spool)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome


async def bits_flipped(ground: Ground, *, records: int) -> Outcome:
    """Flip a bit in the file of a killed service's spool: what is stored is what was sent, and most of it is."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), journal=True, total=records, writer=quick())
        proxy.cut()
        async with ground.service(orders) as killed:
            await killed.until_told(records)
            await killed.kill()
        proxy.heal()
        await asyncio.to_thread(_flip, spool / FILE_NAME, chance(7))
        async with ground.service(Orders(url=url, spool=str(spool), total=0, writer=quick())) as heir:
            # not those that are set aside
            await heir.until(lambda: not _waiting(spool / FILE_NAME))
            report = await heir.terminate()
    wrong = await ask(url, _WRONG)
    outcome = await tally("a bit of the spool flipped", killed.told, url, spool)
    assert wrong == [0]
    # the one that was hit is set aside where it can be told, and counted as lost where it cannot
    assert outcome.stored >= records - _ROWS_OF_A_PAGE, outcome
    assert report.stats.dropped == 0
    return outcome


def _waiting(file: Path) -> int:
    with contextlib.closing(sqlite3.connect(file)) as opened:
        number: int = opened.execute("SELECT count(*) FROM records").fetchone()[0]
    return number


def _flip(file: Path, draw: random.Random) -> None:
    # the rows are in the log until somebody writes them back
    with contextlib.closing(sqlite3.connect(file)) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(file.read_bytes())
    data[draw.randrange(2 * _PAGE, len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


async def upkeep_beside(ground: Ground, *, records: int) -> Outcome:
    """Put every row in flight back to pending, as a daemon's upkeep does: each completion finds its row."""
    url = await ground.database()
    async with ground.service(Orders(url=url, begin=True, total=records, writer=quick())) as service:
        await service.until_told(1)
        upkeep = asyncio.create_task(_put_back_for_ever(url))
        try:
            await service.until_stats(lambda stats: stats.persisted == records)
        finally:
            upkeep.cancel()
        report = await service.terminate()
    outcome = await tally("a daemon's upkeep beside", service.told, url)
    assert (outcome.lost, outcome.stored, report.stats.skipped) == (0, records, 0), outcome
    return outcome


async def _put_back_for_ever(url: str) -> None:
    while True:
        await tell(url, _PUT_BACK)

"""SIGTERM, as a deploy sends it, while the table is locked and the buffer full."""

from __future__ import annotations

import asyncpg

from tests.chaos.bookkeeping import Outcome, tally
from tests.chaos.ground import Ground, quick
from tests.chaos.service import Orders

GRACE = 30.0
"""Seconds on top of ``drain_timeout``: to cancel the flushes under way, and to write the buffer to a slow disk."""


async def told_to_end(ground: Ground, *, queued: int, drain_timeout: float = 1.0) -> Outcome:
    """End a service that cannot deliver: its buffer is on disk by the deadline, and stored at the next start."""
    url, spool = await ground.database(), ground.folder("spool")
    options = quick(channel_capacity=queued, drain_timeout=drain_timeout, check_schema=False)
    orders = Orders(url=url, spool=str(spool), senders=16, pause=0.0, writer=options)
    locking = await asyncpg.connect(url)
    try:
        async with locking.transaction():
            # as behind a long migration: every flush waits
            await locking.execute("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")
            async with ground.service(orders) as service:
                await service.until_stats(lambda stats: stats.pending == queued and stats.waiting_senders > 0)
                report = await service.terminate()
    finally:
        await locking.close()
    closed_in = report.closed_in or 0.0
    assert closed_in < drain_timeout + GRACE, closed_in
    assert (report.stats.accepted, report.stats.spooled) == (queued, queued)
    left = await tally("", service.told, url, spool)
    assert left.spooled == queued, left
    async with ground.service(Orders(url=url, spool=str(spool), senders=0, writer=quick())) as after:
        await after.delivered()
        await after.terminate()
    note = f"drain_timeout {drain_timeout:g} s, closed in {closed_in:.1f} s"
    outcome = await tally(f"SIGTERM with {queued} queued, table locked", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.stored) == (0, queued), outcome
    return outcome

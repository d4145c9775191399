"""Two services share one spool folder; one of them is killed."""

from __future__ import annotations

import asyncio

from tests.chaos.bookkeeping import Outcome, spooled_ids, tally
from tests.chaos.ground import Ground, quick
from tests.chaos.service import Orders
from tests.support.faults import proxy_to


async def one_of_two_killed(ground: Ground, *, records: int) -> Outcome:
    """Kill one of two services that spool in an outage: the other replays the rows of both, each once."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), total=records, writer=quick())
        # a journal, so that rows are in the hands of the one that dies and not already anybody's
        journaling = Orders(url=proxy.url(url), spool=str(spool), journal=True, writer=quick(max_retries=1_000))
        async with ground.service(orders) as survivor, ground.service(journaling) as killed:
            proxy.cut()
            await killed.until_told(records)
            await killed.kill()
            await survivor.until_stats(lambda stats: stats.accepted == records and stats.pending == 0)
            left = await asyncio.to_thread(spooled_ids, spool)
            proxy.heal()
            await survivor.delivered()
            report = await survivor.terminate()
    told = survivor.told + killed.told
    assert len(left) == len(set(left))
    # each row once: its own, and more of them adopted than the dead service's senders had heard of
    assert report.stats.replayed == len(left) >= report.stats.spooled + records
    note = f"{len(left) - report.stats.spooled} rows adopted"
    outcome = await tally("one of two on a shared spool killed", told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome

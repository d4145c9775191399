"""PostgreSQL is killed, stopped and restarted under load, and bad records arrive meanwhile."""

from __future__ import annotations

import asyncio

from tests.chaos.bookkeeping import Outcome, ask, audited, tally, tell
from tests.chaos.ground import Ground, quick
from tests.chaos.service import Orders

PATIENT = {"max_retries": 10_000, "retry_base_delay": 0.02, "retry_max_delay": 0.2}


async def server_killed(ground: Ground, *, rounds: int) -> Outcome:
    """``kill -9`` the server and all its backends: the spool holds what comes until it has recovered."""
    url, spool = await ground.database(), ground.folder("spool")
    async with ground.service(Orders(url=url, spool=str(spool), writer=quick(ledger=True))) as service:
        for _ in range(rounds):
            await service.until_stored(100)
            seen = service.stats
            await asyncio.to_thread(ground.server.kill)
            try:
                await service.until_stats(lambda stats, seen=seen: stats.spooled > seen.spooled + 50)  # type: ignore[misc]
            finally:
                await asyncio.to_thread(ground.server.start)
        await service.quieten()
        await service.delivered()
        report = await service.terminate()
    note = f"{report.stats.spooled} by way of the spool; {await audited(url)}"
    outcome = await tally(f"kill -9 of PostgreSQL x{rounds}", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome


async def short_stop(ground: Ground, *, seconds: float) -> Outcome:
    """Stop the server for less than the retries last: the buffer fills, then senders wait, and no spool is needed."""
    url = await ground.database()
    async with ground.service(Orders(url=url, writer=PATIENT | {"channel_capacity": 500})) as service:
        await service.until_told(200)
        await asyncio.to_thread(ground.server.stop)
        try:
            await service.until_stats(lambda stats: stats.retries > 3 and stats.waiting_senders > 0)
            await asyncio.sleep(seconds)  # the length of the outage
        finally:
            await asyncio.to_thread(ground.server.start)
        await service.until_told(200)
        await service.quieten()
        await service.delivered()
        report = await service.terminate()
    note = f"{report.stats.retries} retries"
    outcome = await tally("stop of PostgreSQL, shorter than the retries", service.told, url, note=note)
    assert (outcome.lost, report.stats.dropped) == (0, 0), outcome
    return outcome


async def long_stop(ground: Ground, *, seconds: float) -> Outcome:
    """Stop the server for longer than the retries last: records go to disk, and are replayed beside live traffic."""
    url, spool = await ground.database(), ground.folder("spool")
    async with ground.service(Orders(url=url, spool=str(spool), writer=quick())) as service:
        await service.until_told(200)
        await asyncio.to_thread(ground.server.stop)
        try:
            await service.until_stats(lambda stats: stats.spooled > 500)
            await asyncio.sleep(seconds)  # the length of the outage
        finally:
            await asyncio.to_thread(ground.server.start)
        await service.until_stored(1)
        await service.until_stats(lambda stats: stats.replayed > 0)
        assert 0 < await connections(url) <= service.orders.pool_size
        await service.quieten()
        await service.delivered()
        report = await service.terminate()
    note = f"{report.stats.replayed} replayed"
    outcome = await tally("stop of PostgreSQL, longer than the retries", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome


async def poison_in_an_outage(ground: Ground, *, records: int) -> Outcome:
    """Offer records of which one in fifty will be refused while the server is down: each ends in dead_letters, once."""
    url, spool = await ground.database(), ground.folder("spool")
    await tell(url, "ALTER TABLE requests ADD CHECK (response_body <> 'bad')")
    orders = Orders(url=url, spool=str(spool), bad_every=50, total=records, writer=quick(batch_size=20))
    await asyncio.to_thread(ground.server.stop)
    try:
        async with ground.service(orders) as service:
            await service.until_stats(lambda stats: stats.spooled == records)
            await asyncio.to_thread(ground.server.start)
            await service.delivered()
            report = await service.terminate()
    finally:
        await asyncio.to_thread(ground.server.start)
    outcome = await tally("poison rows in an outage", service.told, url, spool)
    assert (outcome.lost, outcome.spooled, outcome.dead) == (0, 0, records // 50), outcome
    # each once: an endless replay would count them again and again
    assert report.stats.replayed == records
    assert await ask(url, "SELECT count(*) FROM dead_letters") == [records // 50]
    return outcome


async def connections(url: str) -> int:
    """Return the number of connections that services have to ``url``'s server."""
    (number,) = await ask(url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rwriter'")
    return int(number)

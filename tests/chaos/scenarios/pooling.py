"""PgBouncer in transaction mode, restarted under the load of several services."""

from __future__ import annotations

from contextlib import AsyncExitStack

from tests.chaos.bookkeeping import Outcome, tally
from tests.chaos.ground import Ground, quick
from tests.chaos.service import Orders
from tests.support.pooler import PgBouncer


async def pooler_restarted(ground: Ground, *, services: int, rounds: int) -> Outcome:
    """Kill and restart PgBouncer under more flushes than it has server connections: each kill cuts all of them."""
    url = await ground.database()
    spools = [ground.folder("spool") for _ in range(services)]
    async with PgBouncer(ground.server.port) as pooler, AsyncExitStack() as stack:
        running = []
        for spool in spools:
            orders = Orders(
                url=pooler.url(url), spool=str(spool), pgbouncer=True, writer=quick(flush_concurrency=4, batch_size=50)
            )
            running.append(await stack.enter_async_context(ground.service(orders)))
        for number in range(rounds):
            for service in running:
                await service.until_stored(100)
                # connections change hands with every transaction, and nobody minds
                assert number > 0 or service.stats.retries == 0
            before = [service.stats.spooled for service in running]
            pooler.kill()
            for service, spooled in zip(running, before, strict=True):
                await service.until_stats(lambda stats, spooled=spooled: stats.spooled > spooled)  # type: ignore[misc]
            await pooler.start()
        told, dropped = [], 0
        for service in running:
            await service.until_stored(100)
            await service.quieten()
        for service in running:
            await service.delivered()
            dropped += (await service.terminate()).stats.dropped
            told += service.told
    outcome = await tally(f"PgBouncer restarted x{rounds}, {services} services", told, url, *spools)
    assert (outcome.lost, outcome.spooled, dropped) == (0, 0, 0), outcome
    return outcome

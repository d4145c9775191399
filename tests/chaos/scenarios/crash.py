"""``kill -9`` of the service under load, at random moments."""

from __future__ import annotations

import asyncio
import random

from tests.chaos.bookkeeping import Outcome, audited, spooled_ids, stored_ids, tally
from tests.chaos.ground import Ground, chance, quick
from tests.chaos.harness import Service
from tests.chaos.service import Orders
from tests.support.faults import proxy_to

CAPACITY = 200


async def journaling_service_killed(ground: Ground, *, rounds: int, seed: int = 1) -> Outcome:
    """Kill journaling services one after the other: the next on the same spool takes over what the last one left."""
    url, spool = await ground.database(), ground.folder("spool")
    orders = Orders(url=url, spool=str(spool), journal=True, senders=8, pause=0.0, writer=quick(ledger=True))
    moments = chance(seed)
    told: list[str] = []
    left = 0
    for number in range(rounds):
        async with ground.service(orders) as service:
            await _killed_at_some_moment(service, moments)
        told += service.told
        if number % 2:
            # not each time: to look into the spool is to recover its file, which is the next service's business
            between = await tally("", told, url, spool)
            assert between.lost == 0, between
            left += between.spooled
    orders.senders = 0
    async with ground.service(orders) as last:
        await last.delivered()
        await last.terminate()
    fault = f"kill -9 of the service x{rounds}, journal"
    note = f"{left} seen on disk alone; {await audited(url)}"
    outcome = await tally(fault, told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, outcome.dead) == (0, 0, 0), outcome
    return outcome


async def remembering_service_killed(ground: Ground, *, rounds: int, seed: int = 2) -> Outcome:
    """Kill services that have no journal: the buffer dies with its process, and nothing else is lost."""
    url = await ground.database()
    orders = Orders(url=url, senders=8, pause=0.0, writer=quick(channel_capacity=CAPACITY))
    moments = chance(seed)
    told: list[str] = []
    for _ in range(rounds):
        async with ground.service(orders) as service:
            await _killed_at_some_moment(service, moments)
        told += service.told
        # what is lost was in the buffer, in flight included: no more than it holds
        assert len(set(service.told) - await stored_ids(url)) <= CAPACITY
    outcome = await tally(f"kill -9 of the service x{rounds}, memory", told, url, note=f"at most {CAPACITY} each time")
    assert outcome.stored > 0
    return outcome


async def spooling_service_killed(ground: Ground, *, rounds: int, seed: int = 4) -> Outcome:
    """Kill services in an outage: what was spooled is stored later, and at most the buffer is lost."""
    url, spool = await ground.database(), ground.folder("spool")
    writer = quick(channel_capacity=CAPACITY)
    moments = chance(seed)
    told: list[str] = []
    async with proxy_to(url) as proxy:
        proxy.cut()
        orders = Orders(url=proxy.url(url), spool=str(spool), senders=8, pause=0.0, writer=writer)
        for _ in range(rounds):
            async with ground.service(orders) as service:
                await service.until_stats(lambda stats: stats.spooled > 0)
                await _killed_at_some_moment(service, moments)
            told += service.told
            assert len(set(service.told).difference(await asyncio.to_thread(spooled_ids, spool))) <= CAPACITY
    async with ground.service(Orders(url=url, spool=str(spool), senders=0, writer=quick())) as last:
        await last.delivered()
        await last.terminate()
    note = f"at most {CAPACITY} each time"
    outcome = await tally(f"kill -9 of the service x{rounds}, in an outage", told, url, spool, note=note)
    assert outcome.stored > 0
    assert outcome.spooled == 0
    return outcome


async def callers_hanging_up(ground: Ground, *, records: int) -> Outcome:
    """Cancel every third ``send``: a record that was not accepted does not stay in the journal."""
    url, spool = await ground.database(), ground.folder("spool")
    orders = Orders(url=url, spool=str(spool), journal=True, hang_up_every=3, total=records, writer=quick())
    async with ground.service(orders) as service:
        await service.until(lambda: len(service.told) + service.refused == records)
        await service.delivered()
        report = await service.terminate()
    note = f"{report.refused} cancelled"
    outcome = await tally("callers hanging up, journal", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled) == (0, 0), outcome
    assert report.refused > 0
    return outcome


async def _killed_at_some_moment(service: Service, moments: random.Random) -> None:
    await service.until_told(moments.randrange(400))
    await asyncio.sleep(moments.uniform(0, 0.03))  # the moment itself, not a wait for anything
    await service.kill()

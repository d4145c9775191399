"""Every default and no spool: outages that the buffer holds, and a role with a single connection."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sqlalchemy import make_url

from tests.chaos.bookkeeping import Outcome, tally, tell
from tests.chaos.ground import Ground, quick
from tests.chaos.service import Orders
from tests.support.faults import proxy_to

TWO_HUNDRED_A_SECOND: Final[dict[str, Any]] = {"senders": 4, "pause": 0.02}


async def outages_held(ground: Ground, *, lengths: tuple[float, ...]) -> Outcome:
    """Cut the line for each of ``lengths`` seconds under 200 records a second: all of it waits in the buffer."""
    url = await ground.database()
    async with proxy_to(url) as proxy:
        async with ground.service(Orders(url=proxy.url(url), writer={}, **TWO_HUNDRED_A_SECOND)) as service:
            for seconds in lengths:
                await service.until_stored(50)
                proxy.cut()
                await asyncio.sleep(seconds)  # the length of the outage
                proxy.heal()
            await service.until_stored(50)
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    outcome = await tally(
        f"outages of {lengths} s, no spool", service.told, url, note=f"{report.stats.retries} retries"
    )
    assert (outcome.lost, report.stats.dropped) == (0, 0), outcome
    return outcome


async def one_connection(ground: Ground, *, records: int) -> Outcome:
    """Let the role have one connection: the second flush waits for it, and drops nothing."""
    url = await ground.database()
    role = await _role(url, "CONNECTION LIMIT 1")
    orders = Orders(url=_as(url, role), senders=16, pause=0.0, total=records, writer={})
    async with ground.service(orders) as service:
        await service.until_stats(lambda stats: stats.persisted == records)
        report = await service.terminate()
    outcome = await tally("a role with one connection", service.told, url, note=f"{report.stats.retries} retries")
    assert (outcome.lost, outcome.stored, report.stats.dropped) == (0, records, 0), outcome
    return outcome


async def policy_on_the_replay(ground: Ground, *, records: int) -> Outcome:
    """Let a row policy refuse one record in fifty while the spool is replayed: each is a dead letter, once."""
    url, spool = await ground.database(), ground.folder("spool")
    role = await _role(url)
    await tell(url, "ALTER TABLE requests ENABLE ROW LEVEL SECURITY")
    await tell(url, f"CREATE POLICY p ON requests TO {role} USING (true) WITH CHECK (response_body <> 'bad')")
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(_as(url, role)), spool=str(spool), bad_every=50, total=records, writer=quick())
        proxy.cut()
        async with ground.service(orders) as service:
            await service.until_stats(lambda stats: stats.spooled == records)
            proxy.heal()
            await service.delivered()
            report = await service.terminate()
    outcome = await tally("a row policy on the replay", service.told, url, spool)
    assert (outcome.lost, outcome.spooled, outcome.dead) == (0, 0, records // 50), outcome
    assert report.stats.replayed == records
    return outcome


async def _role(url: str, also: str = "") -> str:
    role = f"chaos_{make_url(url).database}"
    await tell(url, f"CREATE ROLE {role} LOGIN {also}")
    await tell(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    return role


def _as(url: str, role: str) -> str:
    return make_url(url).set(username=role).render_as_string(hide_password=False)

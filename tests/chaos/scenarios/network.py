"""The connection to the database is cut in the middle of COMMIT, or falls silent without being closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from tests.chaos.bookkeeping import Outcome, ask, audited, tally
from tests.chaos.commit_cutter import CommitCutter, Moment
from tests.chaos.ground import Ground, chance, quick
from tests.chaos.scenarios.outage import PATIENT
from tests.chaos.service import Orders
from tests.support.faults import proxy_to

# long enough for a flush on a slow machine, short enough for a test
IMPATIENT: dict[str, Any] = {"connect_timeout": 1.0, "statement_timeout": 1.0}


async def commit_cut(ground: Ground, *, cuts: int, seed: int = 3) -> Outcome:
    """Reset connections before, with and after COMMIT. Others pass in between, so that retries succeed."""
    url, spool = await ground.database(), ground.folder("spool")
    async with CommitCutter("127.0.0.1", ground.server.port, _moments(cuts, seed), flushes_only=True) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), writer=PATIENT | {"batch_size": 20})
        async with ground.service(orders) as service:
            await service.until(lambda: proxy.cuts.total() == cuts)
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    note = ", ".join(f"{number} {moment.value}" for moment, number in proxy.cuts.items())
    outcome = await tally(f"connection reset at COMMIT x{cuts}", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    # the first try had committed: the second found the rows there
    assert report.stats.skipped > 0
    assert await ask(url, "SELECT count(*) FROM requests") == await ask(url, "SELECT count(*) FROM request_templates")
    return outcome


def _moments(cuts: int, seed: int) -> Iterator[Moment | None]:
    dice = chance(seed)
    for _ in range(cuts):
        yield from [None] * dice.randrange(1, 4)
        yield dice.choice([Moment.BEFORE, Moment.WITH, Moment.AFTER])


async def service_vanished(ground: Ground) -> Outcome:
    """Forget a connection that is in a transaction: the server gives it up after a time, and its locks with it.

    What was not committed is sent again, on another connection, and must wait for the first to be given up.
    """
    url, spool = await ground.database(), ground.folder("spool")
    moments = iter([None, None, Moment.UNHEARD, Moment.UNHEARD])
    async with CommitCutter("127.0.0.1", ground.server.port, moments) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), writer=quick(ledger=True), **IMPATIENT)
        async with ground.service(orders) as service:
            await service.until(lambda: proxy.cuts.total() == 2)
            await service.until_told(100)
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    note = f"{report.stats.spooled} by way of the spool; {await audited(url)}"
    outcome = await tally("connection forgotten in a transaction", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome


async def half_open(ground: Ground, *, seconds: float) -> Outcome:
    """Let the server fall silent: flushes time out, the spool takes over, and is replayed afterwards."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), writer=quick(flush_timeout=2.0), **IMPATIENT)
        async with ground.service(orders) as service:
            await service.until_told(200)
            proxy.stall()
            await service.until_stats(lambda stats: stats.spooled > 100)
            await asyncio.sleep(seconds)  # the length of the silence
            proxy.heal()
            await service.until_stats(lambda stats: stats.replayed > 0)
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    note = f"{report.stats.spooled} by way of the spool"
    outcome = await tally("half-open connection", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome


async def half_open_at_the_end(ground: Ground, *, drain_timeout: float = 1.0) -> Outcome:
    """Send SIGTERM while the server is silent: the service ends by its deadline, and the next one delivers."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        writer = quick(flush_timeout=60.0, drain_timeout=drain_timeout, max_retries=100)
        orders = Orders(url=proxy.url(url), spool=str(spool), statement_timeout=60.0, writer=writer)
        async with ground.service(orders) as service:
            await service.until_told(200)
            proxy.stall()
            await service.until_stats(lambda stats: stats.pending > 500)
            report = await service.terminate()
    closed_in = report.closed_in or 0.0
    assert closed_in < drain_timeout + 20, closed_in
    assert report.stats.spooled > 0
    async with ground.service(Orders(url=url, spool=str(spool), senders=0, writer=quick())) as last:
        await last.delivered()
        await last.terminate()
    note = f"drain_timeout {drain_timeout:g} s, closed in {closed_in:.1f} s"
    outcome = await tally("SIGTERM on a half-open connection", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome

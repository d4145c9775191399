"""The spool is full: by its own bound, because it has filled its disk, or because somebody else has."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

from tests.chaos.bookkeeping import Outcome, tally
from tests.chaos.ground import Ground, quick
from tests.chaos.harness import Service
from tests.chaos.service import Orders
from tests.chaos.small_disk import small_disk
from tests.support.faults import proxy_to
from tests.support.sizes import MIB

ROOM = 2 * MIB
# a spool leaves some of its disk free, to be able to take rows out again
DISK = 32 * MIB
BODY = 20_000


async def at_its_bound(ground: Ground) -> Outcome:
    """Fill a spool to ``max_bytes``."""
    return await _full(ground, "spool full: max_bytes", ground.folder("spool"), spool_bytes=ROOM)


async def disk_filled_by_the_spool(ground: Ground) -> Outcome:
    """Let the spool fill its file system: it can still be emptied."""
    folder = ground.folder("spool")
    with small_disk(folder, DISK):
        return await _full(ground, "spool full: its file system", folder)


async def disk_filled_by_others(ground: Ground) -> Outcome:
    """Make every write of the spool fail, removals too, until there is room again."""
    return await _full(ground, "spool cannot write for a while", ground.folder("spool"), file_limit=ROOM)


async def journal_full(ground: Ground) -> Outcome:
    """Fill a journal: ``send`` raises, so that it never returns for a record that the journal did not keep."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        writer = quick(max_retries=1_000)
        orders = Orders(
            url=proxy.url(url), spool=str(spool), journal=True, spool_bytes=ROOM, body_bytes=BODY, writer=writer
        )
        async with ground.service(orders) as service:
            proxy.cut()
            await service.until(lambda: service.refused > 100)
            proxy.heal()
            await service.until_told(100)
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    note = f"{report.refused} refused by send"
    outcome = await tally("journal full", service.told, url, spool, note=note)
    assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
    return outcome


async def _full(ground: Ground, fault: str, spool: Path, **limits: Any) -> Outcome:
    """Check that what finds no room is dropped, counted and logged, the rest replayed, and that the writer lives on."""
    url = await ground.database()
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), body_bytes=BODY, writer=quick(), **limits)
        async with ground.service(orders) as service:
            await service.until_told(100)
            proxy.cut()
            await service.until_stats(lambda stats: stats.spooled > 0 and stats.dropped > 500)
            proxy.heal()
            await service.until_stored(500)
            _make_room(service)
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    log = await asyncio.to_thread(service.log.read_text)
    note = f"{report.stats.dropped} dropped and counted, {report.stats.replayed} replayed"
    outcome = await tally(fault, service.told, url, spool, note=note)
    # gone, but each of them counted, and said
    assert (outcome.lost, outcome.spooled) == (report.stats.dropped, 0), outcome
    assert report.stats.replayed == report.stats.spooled > 0
    assert "dropping records" in log
    return outcome


def _make_room(service: Service) -> None:
    no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, no_limit)

"""The service's memory stays within a bound, read from the kernel, while its database is away or one flush is stuck."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from rwriter import DbEngines, RequestStore, new_request_id
from tests.chaos.bookkeeping import Outcome, ask, tally
from tests.chaos.ground import Ground, quick
from tests.chaos.harness import PATIENCE, Service, forget_peak, resident
from tests.chaos.scenarios.outage import PATIENT
from tests.chaos.service import Orders
from tests.support.faults import proxy_to
from tests.support.records import new_request
from tests.support.sizes import MIB

BODY = 50_000
CHANNEL = 4 * MIB
SMALL = {"channel_bytes": CHANNEL, "batch_size": 20}

UNHEARD = 2 * 20
"""Records of two flushes: when the line is cut, they may be stored although the writer heard no answer."""

GROWTH = 96 * MIB
"""Bytes a service may grow by. The buffer, its batches encoded for the database and for the spool, and what an
allocator keeps are well within it; the records of a scenario, if they were kept, are not."""


async def outage_with_a_spool(ground: Ground, *, volume: int, seconds: float = 0) -> Outcome:
    """Send ``volume`` bytes through an outage of at least ``seconds``, with a spool: they are not in memory."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        # a faster disk is more input
        orders = _full_input(proxy.url(url), spool=str(spool), fsync="off", writer=quick(**SMALL))
        async with ground.service(orders) as service:
            await service.until_told(100)
            proxy.cut()
            await service.until_stats(lambda stats: stats.spooled > 500)
            grown = await _growth(service, volume, seconds)
            proxy.heal()
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    note = f"{grown // MIB:+} MiB; {report.stats.dropped} did not fit the spool"
    outcome = await tally("outage at full input, spool: memory", service.told, url, spool, note=note)
    assert outcome.lost == report.stats.dropped
    assert grown < GROWTH, note
    return outcome


async def outage_without_a_spool(ground: Ground, *, volume: int, seconds: float = 0) -> Outcome:
    """Do the same without a spool, without retries and without patience: records are dropped and counted, not kept."""
    url = await ground.database()
    async with proxy_to(url) as proxy:
        orders = _full_input(proxy.url(url), writer=quick(**SMALL, max_retries=0, give_up_after=0))
        async with ground.service(orders) as service:
            await service.until_told(100)
            proxy.cut()
            await service.until_stats(lambda stats: stats.dropped > 500)
            grown = await _growth(service, volume, seconds)
            proxy.heal()
            await service.quieten()
            await service.delivered()
            report = await service.terminate()
    note = f"{grown // MIB:+} MiB; {report.stats.dropped} dropped and counted"
    outcome = await tally("outage at full input, no spool: memory", service.told, url, note=note)
    # what was on its way when the line was cut may be stored, and its answer was not heard
    assert report.stats.dropped - UNHEARD <= outcome.lost <= report.stats.dropped
    assert grown < GROWTH, note
    return outcome


async def outage_with_a_full_buffer(ground: Ground) -> Outcome:
    """Outlast an outage with retries and no spool: the buffer fills to its bound in bytes, and the senders wait."""
    url = await ground.database()
    async with proxy_to(url) as proxy:
        orders = _full_input(proxy.url(url), writer=PATIENT | SMALL)
        async with ground.service(orders) as service:
            await service.until_told(100)
            forget_peak(service.process.pid)
            before = resident(service.process.pid, "VmHWM")
            proxy.cut()
            await service.until_stats(lambda stats: stats.waiting_senders > 0 and stats.retries > 20)
            assert service.stats.pending_bytes <= CHANNEL
            grown = resident(service.process.pid, "VmHWM") - before
            proxy.heal()
            await service.quieten()
            await service.delivered()
            await service.terminate()
    note = f"{grown // MIB:+} MiB"
    outcome = await tally("outage, the buffer full: memory", service.told, url, note=note)
    assert outcome.lost == 0
    assert grown < GROWTH, note
    return outcome


async def one_flush_stuck(ground: Ground, *, volume: int) -> Outcome:
    """Hold one flush behind a locked row while the others go on: what they store meanwhile is not kept."""
    url, identity = await ground.database(), new_request_id()
    async with DbEngines.from_url(url) as engines:
        await RequestStore(engines).create_realtime(new_request(request_id=identity))
    writer = PATIENT | SMALL
    async with _locked(url, identity) as release, ground.service(_full_input(url, identity, writer=writer)) as service:
        await service.until_stats(lambda stats: stats.persisted > 500)
        grown = await _growth(service, volume)
        assert identity in await _in_flight(url)
        await release()
        await service.quieten()
        await service.delivered()
        await service.terminate()
    note = f"{grown // MIB:+} MiB"
    outcome = await tally("one flush stuck behind a lock: memory", service.told, url, note=note)
    assert outcome.lost == 0
    assert grown < GROWTH, note
    return outcome


@asynccontextmanager
async def _locked(url: str, identity: UUID) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Lock a row, and yield the function that releases it."""
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM requests WHERE id = $1 FOR UPDATE", identity)
        yield transaction.rollback
    finally:
        connection.terminate()


async def _in_flight(url: str) -> list[UUID]:
    return await ask(url, "SELECT id FROM requests WHERE state = 'processing'")


def _full_input(url: str, first_id: UUID | None = None, **changes: Any) -> Orders:
    return Orders(url=url, first_id=first_id, body_bytes=BODY, senders=4, pause=0.0, **changes)


async def _growth(service: Service, volume: int, seconds: float = 0) -> int:
    """Return the bytes by which the service's peak grows while it takes ``volume`` bytes of bodies."""
    forget_peak(service.process.pid)
    before, accepted = resident(service.process.pid, "VmHWM"), service.stats.accepted
    until = time.monotonic() + seconds
    await service.until_stats(
        lambda stats: (stats.accepted - accepted) * BODY > volume and time.monotonic() > until,
        within=PATIENCE * 2 + seconds,
    )
    return resident(service.process.pid, "VmHWM") - before

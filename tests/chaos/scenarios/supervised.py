"""SIGTERM while the database is silent, and a supervisor that kills what has not ended when its grace is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tests.chaos.bookkeeping import Outcome, tally
from tests.chaos.ground import Ground, quick
from tests.chaos.harness import PATIENCE
from tests.chaos.service import Orders
from tests.chaos.web import GUNICORN, UVICORN, WebServer
from tests.support.driving import eventually
from tests.support.faults import proxy_to

DOCKER_GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL of ``docker stop``, the shortest of the usual ones."""

GUNICORN_GRACE: Final = 30.0
"""Seconds that gunicorn gives its workers by default."""


async def plain_process(ground: Ground, *, calls: int) -> Outcome:
    """End a service with every default under ``docker stop``: what it was given is in the spool before it is killed."""
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        orders = Orders(url=proxy.url(url), spool=str(spool), writer={})
        async with ground.service(orders) as service:
            await service.until_stored(10)
            proxy.stall()
            await service.until_told(calls)
            ended = await _end(service.process, DOCKER_GRACE)
    return await _nothing_lost(ground, "SIGTERM to a process, database silent", service.told, url, spool, ended)


async def uvicorn(ground: Ground, *, calls: int) -> Outcome:
    """Do the same to uvicorn, which has no grace of its own: docker's counts."""
    return await _served(ground, UVICORN, "uvicorn", calls, DOCKER_GRACE)


async def gunicorn(ground: Ground, *, calls: int) -> Outcome:
    """Do the same to gunicorn, which kills its workers after its ``graceful_timeout``."""
    return await _served(ground, GUNICORN, "gunicorn", calls, GUNICORN_GRACE)


async def _served(ground: Ground, command: tuple[str, ...], name: str, calls: int, grace: float) -> Outcome:
    url, spool = await ground.database(), ground.folder("spool")
    async with proxy_to(url) as proxy:
        environment = {"RWRITER_DATABASE_URL": proxy.url(url), "CHAOS_SPOOL": str(spool)}
        async with WebServer(command, ground.folder(name) / "log", environment) as server:
            clients = [asyncio.create_task(server.load()) for _ in range(4)]
            await eventually(lambda: len(server.answered) >= 10 and len(server.workers) == 2, within=PATIENCE)
            proxy.stall()
            goal = len(server.answered) + calls
            await eventually(lambda: len(server.answered) >= goal, within=PATIENCE)
            ended = await _end(server.process, grace)
            # workers that outlived their parent are killed with its session as the block is left
        await asyncio.gather(*clients)
    return await _nothing_lost(ground, f"SIGTERM to {name}, database silent", server.answered, url, spool, ended)


async def _end(process: asyncio.subprocess.Process, grace: float) -> str:
    process.terminate()
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"killed after {grace:g} s"
    return f"ended within {grace:g} s"


async def _nothing_lost(ground: Ground, fault: str, told: list[str], url: str, spool: Path, ended: str) -> Outcome:
    left = await tally("", told, url, spool)
    async with ground.service(Orders(url=url, spool=str(spool), senders=0, writer=quick())) as after:
        await after.delivered()
        await after.terminate()
    outcome = await tally(fault, told, url, spool, note=f"{left.spooled} in the spool, {ended}")
    assert (outcome.lost, outcome.spooled, outcome.stored) == (0, 0, outcome.offered), outcome
    return outcome

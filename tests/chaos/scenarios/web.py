"""Web servers with several workers, told to end under load."""

from __future__ import annotations

import asyncio

from tests.chaos.bookkeeping import Outcome, tally
from tests.chaos.ground import Ground
from tests.chaos.harness import PATIENCE
from tests.chaos.web import GUNICORN, UVICORN, WebServer
from tests.support.driving import eventually

CLIENTS = 8


async def uvicorn_told_to_end(ground: Ground, *, calls: int) -> Outcome:
    """Send SIGTERM to uvicorn under load: every call that was answered has its row, also those of the last moments."""
    url, spool = await ground.database(), ground.folder("spool")
    environment = {"RWRITER_DATABASE_URL": url, "CHAOS_SPOOL": str(spool)}
    async with WebServer(UVICORN, ground.folder("uvicorn") / "log", environment) as server:
        await _told_to_end_under_load(server, calls)
    return await _nothing_lost("SIGTERM to uvicorn, 2 workers", server, url)


async def gunicorn_told_to_end(ground: Ground, *, calls: int) -> Outcome:
    """Do the same to gunicorn: a writer opened before its fork refuses in the workers, and says why."""
    url, spool = await ground.database(), ground.folder("spool")
    environment = {"RWRITER_DATABASE_URL": url, "CHAOS_SPOOL": str(spool), "CHAOS_PRELOAD": "yes"}
    async with WebServer(GUNICORN, ground.folder("gunicorn") / "log", environment) as server:
        refusal = await server.call("GET", "/preloaded")
        assert refusal.startswith("WriterForked: "), refusal
        assert "in each worker" in refusal
        await _told_to_end_under_load(server, calls)
    return await _nothing_lost("SIGTERM to gunicorn, 2 workers, preloaded", server, url)


async def _told_to_end_under_load(server: WebServer, calls: int) -> None:
    clients = [asyncio.create_task(server.load()) for _ in range(CLIENTS)]
    await eventually(lambda: len(server.answered) >= calls and len(server.workers) == 2, within=PATIENCE)
    await server.terminate()
    await asyncio.gather(*clients)


async def _nothing_lost(fault: str, server: WebServer, url: str) -> Outcome:
    log = await asyncio.to_thread(server.log.read_text)
    assert log.count("closed: WriterStats") == 2, log
    outcome = await tally(fault, server.answered, url)
    assert (outcome.lost, outcome.stored) == (0, outcome.offered), outcome
    return outcome

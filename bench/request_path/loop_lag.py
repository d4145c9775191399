"""Measure how long a flush keeps the event loop from everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from bench.report import percentiles
from bench.traffic import Bodies, records
from rwriter import RequestsWriter

PAUSE: Final = 0.005
"""Seconds between two flushes, so that the server's own work after a commit is over."""


class Probe:
    """A task that yields to the loop over and over: the time until it runs again is what any handler would wait."""

    def __init__(self) -> None:
        self.ticks: list[int] = []
        self._before = 0

    def restart(self) -> None:
        """Count from now: what the caller did since the last tick was its own."""
        self.ticks.clear()
        self._before = time.perf_counter_ns()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tick while the block lasts."""
        task = asyncio.create_task(self._tick(), name="bench-loop-lag")
        try:
            await asyncio.sleep(0)
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _tick(self) -> None:
        clock, ticks = time.perf_counter_ns, self.ticks
        self._before = clock()
        while True:
            await asyncio.sleep(0)
            now = clock()
            ticks.append(now - self._before)
            self._before = now


async def measure(writer: RequestsWriter, bodies: Sequence[Bodies], *, batch: int) -> dict[str, Any]:
    """Return the ticks during flushes of ``batch`` records, and during as many idle waits of the same length."""
    flushing, idle = [], []
    for start in range(0, len(bodies), batch):
        # built and queued outside of it: those microseconds are the handlers', here they would come in one piece
        prepared = records(bodies[start : start + batch])
        gc.collect()
        await asyncio.sleep(PAUSE)
        probe, quiet = Probe(), Probe()
        began = time.perf_counter()
        async with probe.running():
            for record in prepared:
                writer.send_nowait(record)
            probe.restart()
            await writer.flush()
        seconds = time.perf_counter() - began
        async with quiet.running():
            await asyncio.sleep(seconds)
        flushing.append(probe.ticks)
        idle.append(quiet.ticks)
    return {"flush": _figures(flushing), "no_flush": _figures(idle)}


def _figures(windows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return milliseconds. ``worst``: the longest tick of each window; ``tick``: all, most of them short."""
    worst = [max(window) / 1e6 for window in windows]
    ticks = [tick / 1e6 for window in windows for tick in window]
    return {"windows": len(windows), "worst": percentiles(worst), "tick": percentiles(ticks)}

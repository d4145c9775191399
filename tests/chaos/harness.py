"""Run the service as a process of its own: start it, listen to it, kill it, or ask it to end."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from rwriter import WriterStats
from tests.chaos.bookkeeping import spooled_ids
from tests.chaos.service import Orders, Report
from tests.support.driving import eventually
from tests.support.fates import balanced

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE: Final = 120.0
"""Seconds to wait for a condition before the scenario fails: the machine may be slow and shared."""

_CHUNK: Final = 65_536


class Service:
    """A service under ``orders``. ``told`` are the ids it printed, in order; ``report`` is its latest.

    Every report's account must close, and so must the one of a clean end, against ``told``.
    """

    def __init__(self, orders: Orders, log: Path) -> None:
        self.orders: Final = orders
        self.log: Final = log
        self.told: Final[list[str]] = []
        self.ready = False
        self.report: Report | None = None
        self._process: Process | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "tests.chaos.service", msgspec.json.encode(self.orders).decode()]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=log, cwd=ROOT)
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            await self.kill()
        if self._listening is not None:
            await self._listening

    @property
    def process(self) -> Process:
        assert self._process is not None, "the service was not started"
        return self._process

    @property
    def stats(self) -> WriterStats:
        """Return the statistics of the latest report."""
        assert self.report is not None, "the service has not reported yet"
        return self.report.stats

    @property
    def refused(self) -> int:
        """Return the number of sends that raised, by the latest report."""
        return 0 if self.report is None else self.report.refused

    # -- waiting for it

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], *, within: float = PATIENCE) -> None:
        """Poll ``condition`` until it holds; fail at once when the service ends before."""

        async def holds() -> bool:
            self.process_lives()
            answer = condition()
            return await answer if isinstance(answer, Awaitable) else answer

        await eventually(holds, within=within)

    async def until_stats(self, condition: Callable[[WriterStats], bool], *, within: float = PATIENCE) -> None:
        """Poll the reports until ``condition`` holds for one."""
        await self.until(lambda: self.report is not None and condition(self.report.stats), within=within)

    async def until_told(self, more: int) -> None:
        """Wait until the service has sent ``more`` records than now."""
        target = len(self.told) + more
        await self.until(lambda: self.ready and len(self.told) >= target)

    async def until_stored(self, more: int) -> None:
        """Wait until the service has written ``more`` records than now directly, not by way of the spool."""
        target = self.stats.persisted + more if self.report is not None else more
        await self.until_stats(lambda stats: stats.persisted >= target)

    def process_lives(self) -> None:
        """Fail, with the end of its log, if the service ended by itself or sent an impossible report."""
        if self._listening is not None and self._listening.done():
            self._listening.result()
        if self.process.returncode is not None:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"the service ended with {self.process.returncode}:\n{tail}")

    # -- the end of it

    async def kill(self) -> None:
        """``kill -9`` the service; what it had printed until then is still read."""
        self.process.kill()
        await self._ended()

    async def quieten(self) -> None:
        """Make the service offer no more records; its writer goes on with those it has."""
        self.process.send_signal(signal.SIGUSR1)

    async def delivered(self) -> None:
        """Wait until nothing is pending and the spool is empty."""
        await self.until_stats(lambda stats: stats.pending == 0 and stats.waiting_senders == 0)
        if self.orders.spool is not None:
            spool = Path(self.orders.spool)
            await self.until(lambda: not spooled_ids(spool))

    async def terminate(self) -> Report:
        """Send SIGTERM and return the last report. The service must exit by itself, with nothing pending."""
        self.process.terminate()
        async with asyncio.timeout(PATIENCE):
            await self._ended()
        tail = self.log.read_text(errors="replace")[-3000:]
        assert self.process.returncode == 0, f"exit code {self.process.returncode}:\n{tail}"
        assert self.report is not None
        assert self.report.closed_in is not None, "the service ended without its last report"
        assert self.stats.pending == 0
        assert self.stats.accepted == len(self.told)
        return self.report

    async def _ended(self) -> None:
        await self.process.wait()
        if self._listening is not None:
            await self._listening

    # -- listening

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        while data := await self.process.stdout.read(_CHUNK):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._heard(line)
        assert not rest, rest

    def _heard(self, line: bytes) -> None:
        if line.startswith(b"{"):
            self.report = msgspec.json.decode(line, type=Report)
            assert balanced(self.report.stats), self.report
        elif line == b"ready":
            self.ready = True
        else:
            self.told.append(line.decode())


def resident(pid: int, field: str = "VmRSS") -> int:
    """Return the bytes of memory that a process holds (``VmRSS``), or held at most (``VmHWM``)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} for {pid}")


def forget_peak(pid: int) -> None:
    """Reset ``VmHWM`` to what the process holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")

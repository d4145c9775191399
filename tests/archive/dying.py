"""Runs an archive that is killed at a step. ``python -m tests.archive.dying URL TO``; a line of stdin names each step.

What takes long to import is imported once: each run is a fork of this process. Prints how the run ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from typing import Final

from rwriter import DbEngines
from rwriter.archive import Progress, archive_partitions
from tests.support.archiving import CUTS

URL, TO = sys.argv[1:]
NONE: Final = "none"


def run(step: str) -> None:
    """Archive everything that is old; die by SIGKILL when ``step`` is told."""

    def hear(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    async def work() -> None:
        async with DbEngines.from_url(URL) as engines:
            await archive_partitions(engines, datetime.now(UTC), TO, cuts=CUTS, on_progress=hear)

    asyncio.run(work())


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(line.strip())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 -- the test reads it

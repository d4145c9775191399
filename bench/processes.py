"""Processes that a measurement starts: each answers a line of JSON with a line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_PROCESS: Final = Path("/proc/self")


class Worker:
    """A running process. It dies with the measurement, as its standard input ends then."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, order: object) -> Any:
        """Send ``order`` and return the answer."""
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> Any:
        """Return the next line that the process prints. Raises ``RuntimeError`` if it has ended."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            msg = f"a process of the measurement ended before its time: {self._process.args!r}"
            raise RuntimeError(msg)
        return json.loads(line)


@contextlib.contextmanager
def worker(
    *arguments: str, program: str = sys.executable, environment: Mapping[str, str] | None = None
) -> Iterator[Worker]:
    """Start ``python ARGUMENTS`` and terminate it at the end of the block; its errors go to our own standard error."""
    with subprocess.Popen(  # noqa: S603 -- our own programs
        [program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.terminate()


def resident(measure: str = "VmRSS") -> int:
    """Return the bytes of this process's resident memory; ``VmHWM`` is its peak."""
    status = _PROCESS / "status"
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{measure}:"))
        return int(line.split()[1]) * 1024
    # elsewhere only the peak can be had: an upper bound
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_since() -> Callable[[], int]:
    """Return a function that returns the peak of this process's resident memory from now on, in bytes."""
    with contextlib.suppress(OSError):  # not Linux: the peak is the process's whole life's
        (_PROCESS / "clear_refs").write_text("5")
    return lambda: resident("VmHWM")

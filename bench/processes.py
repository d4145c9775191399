"""Python processes that a measurement starts: each answers a line of JSON with a line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any


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
def worker(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Worker]:
    """Start ``python ARGUMENTS`` and terminate it at the end of the block; its errors go to our own standard error."""
    with subprocess.Popen(  # noqa: S603 -- our own modules
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.terminate()

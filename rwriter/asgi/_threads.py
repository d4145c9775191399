"""A few threads for what would hold up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

INLINE_BYTES: Final = 64 * 1024
"""Bytes that are worked on at once: larger ones would take milliseconds of the loop."""
WORKERS: Final = 2

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Runs what is small at once and the rest on a few threads. Whoever uses it bounds what waits."""

    def __init__(self, name: str = "rwriter-capture", inline: int = INLINE_BYTES) -> None:
        self._name: Final = name
        self._inline: Final = inline
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function``, which works on ``size`` bytes. Raises what it raises."""
        if size <= self._inline:
            return function(*args, **kwargs)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix=self._name)
        return await asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Let the threads end when their work is done. Work that comes afterwards starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

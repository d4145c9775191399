"""One budget of memory for all calls together, and what each call has of it."""

from __future__ import annotations

import threading
from typing import Final

from rwriter.asgi._types import Headers

CALL_BYTES: Final = 8 * 1024
"""Charged for a call without bodies and headers: its scope, its task and all that follows it, as measured."""
HEADER_BYTES: Final = 160
"""Charged for a header beside its text: a tuple and two objects."""
STEP: Final = 16 * 1024
"""Bytes taken at a time, so that a body in small pieces asks seldom."""


class Budget:
    """Bytes that all calls may hold together. The first one is always let in, whatever its size.

    Calls of a WSGI app take from it in many threads.
    """

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit: Final = limit
        self._lock: Final = threading.Lock()

    def take(self, size: int) -> bool:
        """Take ``size`` bytes if there is room."""
        with self._lock:
            if self.used and self.used + size > self._limit:
                return False
            self.used += size
            return True

    def add(self, size: int) -> None:
        """Take ``size`` bytes whether there is room or not; give them back if it is below zero."""
        with self._lock:
            self.used += size


class Share:
    """What one call holds of a budget."""

    def __init__(self, budget: Budget, held: int) -> None:
        self._budget: Final = budget
        self.held = held
        """Bytes taken from the budget."""
        self._spare = 0

    def take(self, size: int) -> bool:
        """Take ``size`` bytes more; give them back if it is below zero."""
        missing = size - self._spare
        if missing > 0:
            taken = max(missing, STEP)
            if not self._budget.take(taken):
                return False
            self.held += taken
            self._spare += taken
        self._spare -= size
        if self._spare > 2 * STEP:
            self._budget.add(-self._spare)
            self.held -= self._spare
            self._spare = 0
        return True

    def settle(self, size: int) -> None:
        """Hold ``size`` bytes from now on, whether there is room or not."""
        self._budget.add(size - self.held)
        self.held = size
        self._spare = 0


class Part:
    """The bytes of one body in a share; called with its size before it grows."""

    def __init__(self, share: Share) -> None:
        self._share: Final = share
        self._size = 0

    def __call__(self, size: int) -> bool:
        """Return True if the body may hold ``size`` bytes."""
        if not self._share.take(size - self._size):
            return False
        self._size = size
        return True


def weight_of(headers: Headers) -> int:
    """Return the bytes that headers hold."""
    return sum(len(name) + len(value) + HEADER_BYTES for name, value in headers)

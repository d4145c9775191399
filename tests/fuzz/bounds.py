"""Limits of the targets' runs, and the bounds that they assert: calls and bytes, never seconds."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings

from tests.support.counting import Calls

TIMES: Final = int(os.environ.get("RWRITER_FUZZ", "1"))
"""``make fuzz`` raises it; the suite runs each target for a moment."""
EXAMPLES: Final = 8
SLACK: Final = 500
"""Calls that do not depend on the size: caches filled, classes made."""
EACH: Final = 10

fuzzed: Final = settings(
    max_examples=EXAMPLES * TIMES,
    # the suite tries the same examples each time: what others find belongs to `make fuzz`
    derandomize=TIMES == 1,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

T = TypeVar("T")


def calls_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the number of calls, Python's and C's, that ``function`` takes."""
    calls = Calls()
    with calls.counted():
        function(*arguments)
    return calls.number


def peak_of(function: Callable[..., T], *arguments: Any) -> tuple[T, int]:
    """Return the result of ``function`` and the most bytes of Python's memory that it held at once."""
    tracemalloc.start()
    try:
        result = function(*arguments)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def at_most_doubled(work: Callable[[int], Callable[[], Any]], size: int) -> None:
    """Assert that twice the input takes about twice the calls at most. ``work(size)`` prepares the input of that size.

    A tenth more is allowed: large values are held in another form than small ones. So are a few calls for each of the
    ``size`` members: a list past 64 KiB is read member by member, a shorter one in one call (8 more each, at most).
    """
    once, twice = work(size), work(2 * size)
    once()  # whatever is made at the first call of all is not counted
    few, many = calls_of(once), calls_of(twice)
    assert many <= 2.2 * few + SLACK + EACH * size, (few, many)

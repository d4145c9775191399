"""Helpers for calling the functions that a service passes in, and for logging their failures sparingly."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def resolve(answer: T | Awaitable[T]) -> T:
    """Return ``answer``, awaited if the hook that gave it is async."""
    return await answer if inspect.isawaitable(answer) else answer


def is_worth_logging(count: int) -> bool:
    """Return True for the 1st, 2nd, 4th, 8th ... occurrence, so that a lasting failure does not fill the log."""
    return count & (count - 1) == 0

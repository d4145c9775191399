"""Checks of options and fields: one wording for each kind of bound.

Each function raises ``ValueError`` that names the option and the value. Comparisons are written so that NaN is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta


def at_least(name: str, value: float, least: float) -> None:
    """Raise unless ``value`` is ``least`` or more."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")


def between(name: str, value: float, least: float, most: float) -> None:
    """Raise unless ``value`` is in ``least``..``most``, both included."""
    if not least <= value <= most:
        raise ValueError(f"{name} must be in {least}..{most}, not {value!r}")


def positive(name: str, value: float | timedelta) -> None:
    """Raise unless ``value`` is more than nothing."""
    amount = value.total_seconds() if isinstance(value, timedelta) else value
    if not amount > 0:
        raise ValueError(f"{name} must be positive, not {value}")


def aware(name: str, value: datetime) -> None:
    """Raise unless ``value`` has a time zone."""
    if value.utcoffset() is None:
        raise ValueError(f"{name} must be timezone-aware, e.g. datetime.now(UTC), not {value!r}")


def one_of(name: str, value: object, choices: Collection[str]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")

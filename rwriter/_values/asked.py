"""Reads what people type: durations, points in time, facts. Each function raises ``ValueError`` in words."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST: Final = 36_500 * 86_400
"""Seconds. Subtracted from today, more would leave the calendar."""


def duration(text: str) -> timedelta:
    """Return the time that ``90s``, ``30m``, ``12h`` or ``7d`` says."""
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", text)
    seconds = 0 if match is None else int(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"{text!r} is no duration: write 90s, 30m, 12h or 7d, at most {_LONGEST // 86_400}d")
    return timedelta(seconds=seconds)


def moment(text: str) -> datetime:
    """Return the time that a duration before now says, or an ISO 8601 date or time; of UTC where it names no zone."""
    if re.fullmatch(r"[0-9]+[smhd]", text):
        return datetime.now(UTC) - duration(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{text!r} is no time: write 7d for seven days ago, 2026-03-04 or 2026-03-04T05:06:07+01:00"
        raise ValueError(msg) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def fact(text: str) -> tuple[str, str | float | bool | None]:
    """Return the name and the value of ``NAME=VALUE``. A value that is no plain JSON value is a text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise ValueError(f"{text!r} is no fact: write NAME=VALUE")
    try:
        plain = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
    return name, plain if plain is None or isinstance(plain, str | int | float | bool) else value

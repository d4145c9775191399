"""Reads the query parameters of the reader routes. Unknown ones are ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from rwriter.asgi._reader.problems import invalid

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
MAX_SEQUENCE: Final = 2**53 - 1

STATES_OF: Final = {
    "queued": ("pending", "claimed"),
    "in_progress": ("processing",),
    "completed": ("completed",),
    "failed": ("failed",),
    "cancelled": ("canceled",),
}
"""The row states that the listing shows as each status."""

_INTEGER = re.compile(r"[0-9]{1,16}")


def limit_in(query: Mapping[str, str]) -> int:
    """Read ``limit``: 1..100, by default 20."""
    return _integer(query, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)


def starting_after_in(query: Mapping[str, str]) -> int:
    """Read ``starting_after``: the last sequence number that the client has, by default -1."""
    return _integer(query, "starting_after", 0, MAX_SEQUENCE, -1)


def ascending_in(query: Mapping[str, str]) -> bool:
    """Read ``order``: return True for ``asc``, False for ``desc``, which is the default."""
    return _one_of(query, "order", ("asc", "desc"), "desc") == "asc"


def stream_in(query: Mapping[str, str]) -> bool:
    """Read ``stream``: ``true`` or ``false``, which is the default."""
    return _one_of(query, "stream", ("true", "false", "True", "False", "1", "0"), "false") in ("true", "True", "1")


def states_in(query: Mapping[str, str]) -> tuple[str | None, ...]:
    """Read ``status``: return the row states it stands for, by default ``(None,)``, which is any state."""
    status = query.get("status")
    return (None,) if status is None else STATES_OF[_one_of(query, "status", tuple(STATES_OF), "")]


def _integer(query: Mapping[str, str], name: str, least: int, most: int, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
        raise invalid(name, f"must be an integer in {least}..{most}")
    return int(text)


def _one_of(query: Mapping[str, str], name: str, words: tuple[str, ...], default: str) -> str:
    text = query.get(name, default)
    if text not in words:
        raise invalid(name, f"must be one of {', '.join(words)}")
    return text

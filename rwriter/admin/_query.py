"""Reads the query parameters of the pages: what was typed into a form, as the filter it stands for."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.datastructures import QueryParams

from rwriter._values.asked import fact, moment
from rwriter.errors import InvalidCursor
from rwriter.store import RequestFilter

TIERS: Final = ("auto", "default", "flex", "priority", "background", "none")
GROUPS: Final = ("day", "hour", "model", "created_by", "status", "service_tier")
LIMITS: Final = (25, 50, 100, 250, 500, 1000)

T = TypeVar("T")


class Invalid(Exception):
    """Raised for a parameter that cannot be used; its text names the field."""


class UsageQuery(NamedTuple):
    """The arguments of ``RequestStore.usage``."""

    created_by: str | None
    since: datetime
    until: datetime
    by: tuple[str, ...]


def filter_in(query: QueryParams) -> RequestFilter:
    """Return the filter that the parameters stand for. An empty field does not ask. Raises ``Invalid``."""
    given: dict[str, Any] = {
        "created_by": query.get("created_by") or None,
        "status": query.get("status") or None,
        "models": [name.strip() for name in query.get("models", "").split(",") if name.strip()] or None,
        "service_tiers": [None if tier == "none" else tier for tier in query.getlist("tier")] or None,
        "created_after": _read(query, "created_after", moment),
        "created_before": _read(query, "created_before", moment),
        "metadata": dict(_read(query, "metadata", _facts) or ()) or None,
        "active_first": bool(query.get("active_first")),
        "cursor": query.get("cursor") or None,
        "limit": _read(query, "limit", int),
        "offset": _read(query, "offset", int),
    }
    try:
        return RequestFilter(**{name: value for name, value in given.items() if value is not None})
    except (ValueError, InvalidCursor) as exc:
        raise Invalid(str(exc)) from None


def usage_in(query: QueryParams) -> UsageQuery:
    """Return what is to be summed up: by default the last seven days, by day. Raises ``Invalid``."""
    by = tuple(name for name in GROUPS if name in query.getlist("by"))
    until = _read(query, "until", moment) or datetime.now(UTC)
    since = _read(query, "since", moment) or moment("7d")
    return UsageQuery(query.get("created_by") or None, since, until, by or ("day",))


def request_id_in(text: str) -> uuid.UUID | None:
    """Return the id that ``text`` is, a UUID or ``resp_`` and one; ``None`` for any other text."""
    try:
        return uuid.UUID(text.strip().removeprefix("resp_"))
    except ValueError:
        return None


def first_page(query: QueryParams) -> str:
    """Return the query string of the filter alone."""
    # an offset would count from the cursor of each page
    dropped = {"cursor", "offset", "told"}
    return urlencode([(name, value) for name, value in query.multi_items() if value and name not in dropped])


def next_page(query: QueryParams, cursor: str | None) -> str | None:
    """Return the query string of the page after ``cursor``, the filter kept."""
    return None if cursor is None else "&".join(filter(None, (first_page(query), urlencode({"cursor": cursor}))))


def with_owner(owner: str) -> str:
    """Return the query string for an owner's requests."""
    return urlencode({"created_by": owner})


def _read(query: Mapping[str, str], field: str, read: Callable[[str], T]) -> T | None:
    text = query.get(field, "").strip()
    if not text:
        return None
    try:
        return read(text)
    except (ValueError, OverflowError) as exc:
        words = f"{text!r} is no number" if read is int else str(exc)
        raise Invalid(f"{field}: {words}") from None


def _facts(text: str) -> dict[str, Any]:
    return dict(fact(line.strip()) for line in text.splitlines() if line.strip())


def metadata_text(metadata: Mapping[str, Any] | None) -> str:
    """Return a row's facts as a person reads them: a line of JSON."""
    return "" if not metadata else msgspec.json.encode(metadata).decode()

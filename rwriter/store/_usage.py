"""How much was asked and answered: requests, tokens and times, summed up by the database from the columns alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Float, Select, Text, bindparam, func, literal_column, select

from rwriter._validation import aware, one_of
from rwriter._values.answers import Answer
from rwriter._values.texts import repair
from rwriter.schema import requests
from rwriter.store._connections import Connections
from rwriter.store._predicates import AWARE, constant, visible

_EPOCH: Final = literal_column("timestamptz '1970-01-01 00:00:00+00'", AWARE)
_PERCENTILES: Final[ColumnElement[Any]] = literal_column("ARRAY[0.5, 0.95]")
_TIMES: Final = ("day", "hour")
_TOKENS: Final = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")


class UsageRow(Answer, frozen=True, kw_only=True):
    """One group of ``usage``. What it was not grouped by is ``None``.

    ``day`` and ``hour`` are when the requests began, in UTC; ``hour`` is its first instant. ``failed`` counts those of
    ``requests`` whose state is ``failed``. Counts of tokens are sums: requests of which they are not known add nothing.
    Times are milliseconds, ``None`` where no request of the group has them: the duration of finished requests, and from
    the start to the first byte of the answer.
    """

    day: date | None = None
    hour: datetime | None = None
    model: str | None = None
    created_by: str | None = None
    status: str | None = None
    service_tier: str | None = None
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    duration_p50_ms: float | None
    duration_p95_ms: float | None
    first_token_p50_ms: float | None
    first_token_p95_ms: float | None


def _since_the_epoch(bucket: str) -> ColumnElement[Any]:
    # date_trunc looks the time zone up for each row, which costs more than everything else here
    return func.date_bin(literal_column(f"interval '{bucket}'"), requests.c.created_at, _EPOCH, type_=AWARE)


_GROUPS: Final[dict[str, ColumnElement[Any]]] = {
    "day": _since_the_epoch("1 day"),
    "hour": _since_the_epoch("1 hour"),
    "model": requests.c.model,
    "created_by": requests.c.created_by,
    "status": requests.c.state,
    "service_tier": requests.c.service_tier,
}


async def usage(
    connections: Connections, *, created_by: str | None, since: datetime, until: datetime, by: Sequence[str]
) -> list[UsageRow]:
    """Return the groups in order. See ``RequestStore.usage``."""
    for name, moment in (("since", since), ("until", until)):
        aware(name, moment)
    if isinstance(by, str):
        raise TypeError("by must be a sequence of names, not one string")
    for name in by:
        one_of("by", name, _GROUPS)
    parameters: dict[str, Any] = {"since": since, "until": until}
    if created_by is not None:
        parameters["created_by"] = repair(created_by).strip()
    query = _query(tuple(dict.fromkeys(by)), of_owner=created_by is not None)
    async with connections.query(consistent=False) as connection:
        return [_row(found) for found in (await connection.execute(query, parameters)).mappings()]


@functools.lru_cache(maxsize=64)
def _query(by: tuple[str, ...], *, of_owner: bool) -> Select[Any]:
    columns = {
        "requests": func.count(),
        "failed": func.count().filter(requests.c.state == constant("failed")),
        **{name: func.coalesce(func.sum(requests.c[name]), literal_column("0")) for name in _TOKENS},
        "duration": _percentiles(func.coalesce(requests.c.completed_at, requests.c.failed_at)),
        "first_token": _percentiles(requests.c.first_token_at),
    }
    query = select(
        *(_GROUPS[name].label(name) for name in by), *(value.label(name) for name, value in columns.items())
    ).where(
        visible(),
        requests.c.created_at >= bindparam("since", type_=AWARE),
        requests.c.created_at < bindparam("until", type_=AWARE),
    )
    if of_owner:
        query = query.where(requests.c.created_by == bindparam("created_by", type_=Text()))
    places: list[ColumnElement[int]] = [literal_column(str(place)) for place in range(1, len(by) + 1)]
    return query.group_by(*places).order_by(*places) if by else query


def _percentiles(end: ColumnElement[datetime]) -> ColumnElement[Any]:
    # the difference of numbers, as servers before 17 refuse to subtract a time from an infinite one; and date_part, as
    # the exact numbers of extract are slow
    seconds = _epoch(end) - _epoch(requests.c.started_at)
    return func.percentile_cont(_PERCENTILES).within_group(seconds * literal_column("1000"))


def _epoch(time: ColumnElement[datetime]) -> ColumnElement[float]:
    return func.date_part(constant("epoch"), time, type_=Float())


def _row(found: Any) -> UsageRow:
    fields = dict(found)
    for name in ("duration", "first_token"):
        for percentile, value in zip(("p50", "p95"), fields.pop(name) or (None, None), strict=True):
            # times are stored in whole microseconds: what is beyond is the noise of the numbers
            fields[f"{name}_{percentile}_ms"] = None if value is None else round(value, 3)
    for name in _TIMES:
        if name in fields:
            fields[name] = fields[name].astimezone(UTC)
    return UsageRow(**{name: value.date() if name == "day" else value for name, value in fields.items()})

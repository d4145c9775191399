"""The listing's SQL: filters, newest-first order and the keyset cursor. ``store.py`` is the only caller."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Uuid,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, CompoundSelect, Select

from rwriter._statements import SUMMARY_COLUMNS, in_states, visible
from rwriter.errors import InvalidCursor
from rwriter.records import repair
from rwriter.schema import ACTIVE_STATES, FINISHED_STATES, STATES, request_templates, requests

MAX_LIMIT: Final = 1_000


class RequestFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What ``list_requests`` is asked for. Every filter that is not ``None`` must hold.

    ``status`` is one of the six states; ``models`` and ``service_tiers`` match any of their items, an empty list
    matches nothing; ``created_after`` and ``created_before`` are inclusive and timezone-aware. The order is newest
    first, ties by id; ``active_first`` puts processing, claimed and pending rows before all else. ``limit`` is
    1..1000; ``cursor`` is the ``next_cursor`` of the page before, for the same filter; ``offset`` skips rows after the
    cursor and costs as much as reading them.

    Raises ``ValueError`` naming the field, ``InvalidCursor`` for a cursor this library did not make.
    """

    created_by: str | None = None
    status: str | None = None
    models: Sequence[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    service_tiers: Sequence[str | None] | None = None
    active_first: bool = False
    cursor: str | None = None
    limit: int = 50
    offset: int = 0

    def __post_init__(self) -> None:
        if self.status is not None and self.status not in STATES:
            msg = f"status must be one of {', '.join(STATES)}, not {self.status!r}"
            raise ValueError(msg)
        if not 1 <= self.limit <= MAX_LIMIT:
            msg = f"limit must be in 1..{MAX_LIMIT}, not {self.limit}"
            raise ValueError(msg)
        if self.offset < 0:
            msg = f"offset must not be negative, it is {self.offset}"
            raise ValueError(msg)
        for field in ("models", "service_tiers"):
            if isinstance(getattr(self, field), str):
                msg = f"{field} must be a list of strings, not one string"
                raise TypeError(msg)
        for field in ("created_after", "created_before"):
            value = getattr(self, field)
            if value is not None and value.tzinfo is None:
                msg = f"{field} must be timezone-aware, e.g. datetime.now(UTC)"
                raise ValueError(msg)
        if self.cursor is not None:
            decode_cursor(self.cursor)


class Position(NamedTuple):
    """The last row of a page: whether it was listed among the active ones, and its sort key."""

    active: bool
    created_at: datetime
    id: uuid.UUID


def encode_cursor(position: Position) -> str:
    """An opaque, URL-safe cursor for the page after ``position``."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).decode().rstrip("=")


def decode_cursor(cursor: str) -> Position:
    """The position in a cursor; raises ``InvalidCursor``."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position = msgspec.msgpack.decode(raw, type=Position)
        # forged near the ends of time it cannot be said in UTC
        return position._replace(created_at=position.created_at.astimezone(UTC))
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError) as exc:
        msg = "cursor is not one that list_requests returned; start again without it"
        raise InvalidCursor(msg) from exc


def page_query(asked: RequestFilter) -> Select[Any] | CompoundSelect[Any]:
    """The rows of one page and one more, each with ``path`` and ``is_active``."""
    rows = asked.limit + 1
    position = decode_cursor(asked.cursor) if asked.cursor is not None else None
    if not asked.active_first:
        page = _leg(asked, position, active=False).limit(rows).offset(asked.offset)
        return _with_path(page)
    # Two index scans, one for the few rows in flight and one for the rest, instead of a sort of the whole table.
    legs = []
    if position is None or position.active:
        legs.append(_leg(asked, position, active=True).where(in_states(ACTIVE_STATES)))
    finished = _leg(asked, None if position is None or position.active else position, active=False)
    legs.append(finished.where(in_states(FINISHED_STATES)))
    ordered = [select(leg.limit(rows + asked.offset).subquery()) for leg in legs]
    both = union_all(*ordered).subquery()
    page = (
        select(both)
        .order_by(both.c.is_active.desc(), both.c.created_at.desc(), both.c.id.desc())
        .limit(rows)
        .offset(asked.offset)
    )
    return _with_path(page)


def count_query(asked: RequestFilter) -> Select[int]:
    """How many rows match, cursor and limit aside."""
    return select(func.count()).select_from(requests).where(*_conditions(asked))


def matching_query(asked: RequestFilter) -> Select[Any]:
    """The same rows as ``count_query`` counts, for the planner to estimate."""
    return select(requests.c.id).where(*_conditions(asked))


def _conditions(asked: RequestFilter) -> list[ColumnElement[bool]]:
    conditions = [visible()]
    if asked.created_by is not None:
        conditions.append(requests.c.created_by == repair(asked.created_by))
    if asked.status is not None:
        conditions.append(in_states((asked.status,)))
    if asked.models is not None:
        conditions.append(requests.c.model.in_([repair(model) for model in asked.models]))
    if asked.created_after is not None:
        conditions.append(requests.c.created_at >= asked.created_after)
    if asked.created_before is not None:
        conditions.append(requests.c.created_at <= asked.created_before)
    if asked.service_tiers is not None:
        conditions.append(_in_tiers(asked.service_tiers))
    return conditions


def _in_tiers(tiers: Sequence[str | None]) -> ColumnElement[bool]:
    named = requests.c.service_tier.in_([repair(tier) for tier in tiers if tier is not None])
    return or_(named, requests.c.service_tier.is_(None)) if None in tiers else named


def _leg(asked: RequestFilter, after: Position | None, *, active: bool) -> Select[Any]:
    query = (
        select(
            *SUMMARY_COLUMNS,
            requests.c.template_id,
            literal_column("1" if active else "0", Integer).label("is_active"),
        )
        .where(*_conditions(asked))
        .order_by(requests.c.created_at.desc(), requests.c.id.desc())
    )
    if after is None:
        return query
    key = tuple_(
        bindparam("after_created_at", after.created_at, DateTime(timezone=True)),
        bindparam("after_id", after.id, Uuid()),
    )
    return query.where(tuple_(requests.c.created_at, requests.c.id) < key)


def _with_path(page: Select[Any]) -> Select[Any]:
    # joined after the limit: a page needs the templates of its own rows only
    rows = page.subquery("page")
    columns = [column for column in rows.c if column.name != "template_id"]
    return (
        select(*columns, func.coalesce(request_templates.c.path, "").label("path"))
        .select_from(rows.outerjoin(request_templates, rows.c.template_id == request_templates.c.id))
        .order_by(rows.c.is_active.desc(), rows.c.created_at.desc(), rows.c.id.desc())
    )


class Explain(Executable, ClauseElement):
    """``EXPLAIN (FORMAT JSON)`` of a query: the planner's estimate where counting takes too long."""

    inherit_cache = False

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(Explain)
def _compile_explain(element: Explain, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "EXPLAIN (FORMAT JSON) " + compiler.process(element.query, **kwargs)

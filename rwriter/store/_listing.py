"""The listing's SQL: filters, newest-first order and the keyset cursor. ``store.py`` is the only caller."""

from __future__ import annotations

import base64
import binascii
import functools
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Text,
    Uuid,
    bindparam,
    false,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, Select, Subquery

from rwriter._validation import at_least, aware, between, one_of
from rwriter.errors import InvalidCursor
from rwriter.records import repair
from rwriter.schema import ACTIVE_STATES, FINISHED_STATES, STATES, request_templates, requests
from rwriter.store._statements import SUMMARY_COLUMNS, constant, in_states, visible

MAX_LIMIT: Final = 1_000
SHAPES: Final = 64
"""Statements of each kind that are kept: up to 160 kB each, and a service asks in a handful of ways."""


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
        if self.status is not None:
            one_of("status", self.status, STATES)
        between("limit", self.limit, 1, MAX_LIMIT)
        at_least("offset", self.offset, 0)
        for field in ("models", "service_tiers"):
            if isinstance(getattr(self, field), str):
                msg = f"{field} must be a list of strings, not one string"
                raise TypeError(msg)
        for field in ("created_after", "created_before"):
            value = getattr(self, field)
            if value is not None:
                aware(field, value)
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


def page_query(asked: RequestFilter) -> tuple[Select[Any], dict[str, Any]]:
    """The rows of one page and one more, each with ``path`` and ``is_active``: a statement and its parameters."""
    position = decode_cursor(asked.cursor) if asked.cursor is not None else None
    rows = asked.limit + 1
    reach = rows + asked.offset
    parameters = _values(asked) | {"rows": rows, "offset": asked.offset, "reach": reach}
    if position is not None:
        parameters |= {"after_created_at": position.created_at, "after_id": position.id}
    return _page(_shape(asked), _legs(asked, position), 1 << (reach - 1).bit_length()), parameters


def count_query(asked: RequestFilter) -> tuple[Select[int], dict[str, Any]]:
    """How many rows match, cursor and limit aside."""
    return _count(_shape(asked)), _values(asked)


def matching_query(asked: RequestFilter) -> tuple[Select[Any], dict[str, Any]]:
    """The same rows as ``count_query`` counts, for the planner to estimate."""
    return select(requests.c.id).where(*_conditions(_shape(asked))), _values(asked)


class _Shape(NamedTuple):
    """What of a filter is written in its statements. The rest are parameters, named as the fields are."""

    created_by: bool
    status: str | None
    models: int | None
    """How many are named: 0, 1 or more; ``None`` where the filter does not ask."""
    created_after: bool
    created_before: bool
    service_tiers: int | None
    no_tier: bool


class _Leg(NamedTuple):
    """One run through an index: of all rows, of those in flight or of the finished ones; after the cursor or not."""

    states: tuple[str, ...] = ()
    after: bool = False


def _shape(asked: RequestFilter) -> _Shape:
    models, tiers = asked.models, asked.service_tiers
    return _Shape(
        created_by=asked.created_by is not None,
        status=asked.status,
        models=None if models is None else min(len(models), 2),
        created_after=asked.created_after is not None,
        created_before=asked.created_before is not None,
        service_tiers=None if tiers is None else min(sum(tier is not None for tier in tiers), 2),
        no_tier=tiers is not None and None in tiers,
    )


def _values(asked: RequestFilter) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if asked.created_by is not None:
        values["created_by"] = repair(asked.created_by)
    if models := [repair(model) for model in asked.models or ()]:
        values["models"] = _one_or_all(models)
    if asked.created_after is not None:
        values["created_after"] = asked.created_after
    if asked.created_before is not None:
        values["created_before"] = asked.created_before
    if tiers := [repair(tier) for tier in asked.service_tiers or () if tier is not None]:
        values["service_tiers"] = _one_or_all(tiers)
    return values


def _one_or_all(items: list[str]) -> str | list[str]:
    return items[0] if len(items) == 1 else items


def _legs(asked: RequestFilter, position: Position | None) -> tuple[_Leg, ...]:
    if not asked.active_first:
        return (_Leg(after=position is not None),)
    if position is not None and not position.active:
        return (_Leg(FINISHED_STATES, after=True),)
    # Two index scans, one for the few rows in flight and one for the rest, instead of a sort of the whole table.
    return _Leg(ACTIVE_STATES, after=position is not None), _Leg(FINISHED_STATES)


_TEXTS: Final = ARRAY(Text(), dimensions=1)
_AWARE: Final = DateTime(timezone=True)
_ROWS: Final = bindparam("rows", type_=BigInteger())
_OFFSET: Final = bindparam("offset", type_=BigInteger())
_REACH: Final = bindparam("reach", type_=BigInteger())


def _conditions(shape: _Shape) -> list[ColumnElement[bool]]:
    conditions = [visible()]
    if shape.created_by:
        conditions.append(requests.c.created_by == bindparam("created_by", type_=Text()))
    if shape.status is not None:
        conditions.append(in_states((shape.status,)))
    if shape.models is not None:
        conditions.append(_among(requests.c.model, "models", shape.models))
    if shape.created_after:
        conditions.append(requests.c.created_at >= bindparam("created_after", type_=_AWARE))
    if shape.created_before:
        conditions.append(requests.c.created_at <= bindparam("created_before", type_=_AWARE))
    if shape.service_tiers is not None:
        named = _among(requests.c.service_tier, "service_tiers", shape.service_tiers)
        conditions.append(or_(named, requests.c.service_tier.is_(None)) if shape.no_tier else named)
    return conditions


def _among(column: Column[Any], name: str, number: int) -> ColumnElement[bool]:
    if number == 0:
        # an empty array would be tried on every row
        return false()
    if number == 1:
        # rows that are equal to one value come out of an index in order, those of an array do not
        return column == bindparam(name, type_=Text())
    return column == func.any(bindparam(name, type_=_TEXTS))


@functools.lru_cache(maxsize=SHAPES)
def _count(shape: _Shape) -> Select[int]:
    return select(func.count()).select_from(requests).where(*_conditions(shape))


@functools.lru_cache(maxsize=SHAPES)
def _page(shape: _Shape, legs: tuple[_Leg, ...], most: int) -> Select[Any]:
    runs = union_all(*(_run(shape, leg, most) for leg in legs)).subquery()
    page = select(runs).order_by(*_newest_first(runs)).limit(_ROWS).offset(_OFFSET)
    # joined after the limit: a page needs the templates of its own rows only
    rows = page.subquery("page")
    columns = [column for column in rows.c if column.name != "template_id"]
    return (
        select(*columns, func.coalesce(request_templates.c.path, constant("")).label("path"))
        .select_from(rows.outerjoin(request_templates, rows.c.template_id == request_templates.c.id))
        .order_by(*_newest_first(rows))
    )


def _run(shape: _Shape, leg: _Leg, most: int) -> Select[Any]:
    is_active = literal_column("1" if leg.states == ACTIVE_STATES else "0", Integer).label("is_active")
    query = (
        select(*SUMMARY_COLUMNS, requests.c.template_id, is_active)
        .where(*_conditions(shape))
        .order_by(requests.c.created_at.desc(), requests.c.id.desc())
    )
    if leg.states:
        query = query.where(in_states(leg.states))
    if leg.after:
        key = tuple_(bindparam("after_created_at", type_=_AWARE), bindparam("after_id", type_=Uuid()))
        query = query.where(tuple_(requests.c.created_at, requests.c.id) < key)
    # Bounded twice: of a parameter alone the planner, asked for a plan that fits any value, believes that it is a tenth
    # of the table, and sorts that. A bound in the text for every limit would be a statement for every limit.
    bounded = query.limit(literal_column(str(most), Integer)).subquery()
    return select(bounded).order_by(bounded.c.created_at.desc(), bounded.c.id.desc()).limit(_REACH)


def _newest_first(rows: Subquery) -> tuple[ColumnElement[Any], ...]:
    return rows.c.is_active.desc(), rows.c.created_at.desc(), rows.c.id.desc()


class Explain(Executable, ClauseElement):
    """``EXPLAIN (FORMAT JSON)`` of a query: the planner's estimate where counting takes too long."""

    inherit_cache = False

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(Explain)
def _compile_explain(element: Explain, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "EXPLAIN (FORMAT JSON) " + compiler.process(element.query, **kwargs)

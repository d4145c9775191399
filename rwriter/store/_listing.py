"""Pages of requests: filters, newest-first order, a keyset cursor, and how many rows match."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Executable,
    Integer,
    Text,
    Uuid,
    bindparam,
    cast,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, Select, Subquery

from rwriter._database_errors import sqlstate_of
from rwriter._validation import at_least, aware, between, one_of
from rwriter._values.texts import repair
from rwriter.records import Metadata
from rwriter.schema import ACTIVE_STATES, FINISHED_STATES, STATES, State, first_id, request_templates, requests
from rwriter.store._connections import Connections
from rwriter.store._cursor import Position, decode_cursor, encode_cursor
from rwriter.store._predicates import AWARE, in_states, json_of, visible
from rwriter.store._results import SUMMARY_COLUMNS, TEMPLATE_COLUMNS, RequestSummary, summary_of, with_utc_times

MAX_LIMIT: Final = 1_000
SHAPES: Final = 64
"""Statements of each kind that are kept: up to 160 kB each, and a service asks in a handful of ways."""

COUNT_TIMEOUT_MS: Final = 100
"""Milliseconds for an exact total, before the planner's estimate is taken."""

ID_SLACK: Final = timedelta(days=1)
"""How long before its row's ``created_at`` an id may have been made, for the row to be listed by time where the tables
are partitioned. Ids are made when a request begins or ends; the rest is the clocks'."""

_NO_EARLIER: Final = datetime(1971, 1, 1, tzinfo=UTC)
"""Ids count from 1970."""

_QUERY_CANCELED: Final = "57014"


class RequestFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects rows for ``list_requests``. Every filter that is not ``None`` must hold.

    ``status`` is one of the six states; ``models`` and ``service_tiers`` match any of their items, an empty list
    matches nothing; ``created_after`` and ``created_before`` are inclusive and timezone-aware. The order is newest
    first, ties by id; ``active_first`` puts processing, claimed and pending rows before all else. ``limit`` is
    1..1000; ``cursor`` is the ``next_cursor`` of the page before, for the same filter; ``offset`` skips rows after the
    cursor and costs as much as reading them. ``metadata`` matches rows that have all of these facts; it is looked for
    among an owner's rows or in a time window: it needs ``created_by`` or ``created_after``.

    Raises ``ValueError`` naming the field, ``InvalidCursor`` for a cursor this library did not make.
    """

    created_by: str | None = None
    status: State | None = None
    models: Sequence[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    service_tiers: Sequence[str | None] | None = None
    metadata: Metadata | None = None
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
        if self.metadata is not None:
            _check_metadata(self)
        if self.cursor is not None:
            decode_cursor(self.cursor)


def _check_metadata(filter_: RequestFilter) -> None:
    if not isinstance(filter_.metadata, Mapping):
        msg = f"metadata must be a mapping, not {type(filter_.metadata).__name__}"
        raise TypeError(msg)
    if filter_.created_by is None and filter_.created_after is None:
        msg = "metadata needs created_by or created_after: over all rows the search would read every template"
        raise ValueError(msg)


async def page(
    connections: Connections, filter_: RequestFilter, *, consistent: bool
) -> tuple[list[RequestSummary], str | None]:
    """Return one page and the cursor of the next. See ``RequestStore.list_page``."""
    by_id = filter_.created_after is not None and await _prunes(connections, filter_)
    async with connections.query(consistent=consistent) as connection:
        result = await connection.execute(*page_query(filter_, by_id=by_id))
        # not as mappings: looking their names up takes as long as the query
        names = tuple(result.keys())
        rows = [with_utc_times(zip(names, row, strict=True)) for row in result]
    active = [bool(row.pop("is_active")) for row in rows]
    data = [summary_of(row) for row in rows[: filter_.limit]]
    if len(rows) <= filter_.limit:
        return data, None
    return data, encode_cursor(Position(active[len(data) - 1], data[-1].created_at, data[-1].id))


async def count(connections: Connections, filter_: RequestFilter, *, consistent: bool) -> tuple[int, bool]:
    """Return how many rows match, and True where that is the planner's estimate: counting took too long."""
    by_id, engine = await _prunes(connections, filter_), connections.reader(consistent=consistent)
    number: int | None = None
    try:
        # a transaction of its own: the timeout bounds whatever comes after it too, be it the end of a savepoint
        async with engine.connect() as connection:
            await connection.execute(text(f"SET LOCAL statement_timeout = {COUNT_TIMEOUT_MS}"))
            number = (await connection.execute(*count_query(filter_, by_id=by_id))).scalar_one()
    except DBAPIError as exc:
        if sqlstate_of(exc) != _QUERY_CANCELED:
            raise
    if number is not None:
        return number, False
    async with engine.connect() as connection:
        return await _estimate(connection, *matching_query(filter_, by_id=by_id)), True


async def _prunes(connections: Connections, filter_: RequestFilter) -> bool:
    """Return True where a bound of the ids keeps partitions out of which no row can match.

    A later bound there is none: ids of today may be given to requests of long ago, as an import does.
    """
    return filter_.created_after is not None and await connections.partitioned()


async def _estimate(connection: AsyncConnection, query: Select[Any], parameters: Mapping[str, Any]) -> int:
    plan = (await connection.execute(Explain(query), parameters)).scalar_one()
    parsed = msgspec.json.decode(plan) if isinstance(plan, str) else plan
    return int(parsed[0]["Plan"]["Plan Rows"])


def page_query(filter_: RequestFilter, *, by_id: bool = False) -> tuple[Select[Any], dict[str, Any]]:
    """Return the statement and the parameters for one page and one row more, each with ``path`` and ``is_active``.

    ``by_id`` bounds the ids by ``created_after``, for tables that are partitioned by them.
    """
    position = decode_cursor(filter_.cursor) if filter_.cursor is not None else None
    rows = filter_.limit + 1
    scanned = rows + filter_.offset
    parameters = _values(filter_, by_id=by_id) | {"rows": rows, "offset": filter_.offset, "scanned": scanned}
    if position is not None:
        parameters |= {"after_created_at": position.created_at, "after_id": position.id}
    row_cap = 1 << (scanned - 1).bit_length()
    return _page(_shape(filter_, by_id=by_id), _index_scans(filter_, position), row_cap), parameters


def count_query(filter_: RequestFilter, *, by_id: bool = False) -> tuple[Select[int], dict[str, Any]]:
    """Return the statement that counts the matching rows, cursor and limit aside."""
    return _count(_shape(filter_, by_id=by_id)), _values(filter_, by_id=by_id)


def matching_query(filter_: RequestFilter, *, by_id: bool = False) -> tuple[Select[Any], dict[str, Any]]:
    """Return a statement for the rows that ``count_query`` counts, for the planner to estimate."""
    return select(requests.c.id).where(*_conditions(_shape(filter_, by_id=by_id))), _values(filter_, by_id=by_id)


class _Shape(NamedTuple):
    """The parts of a filter that change the SQL text: the key of its cached statement.

    Everything else is a bind parameter, named as the field is.
    """

    created_by: bool
    status: State | None
    models: int | None
    """How many are named: 0, 1 or more; ``None`` where the filter does not ask."""
    created_after: bool
    created_before: bool
    service_tiers: int | None
    no_tier: bool
    metadata: bool
    by_id: bool
    """Tables that are partitioned by id are asked for the ids that ``created_after`` leaves."""


class _IndexScan(NamedTuple):
    """One scan of an index: of all rows, of those in flight or of the finished ones; after the cursor or not."""

    states: tuple[str, ...] = ()
    after: bool = False


def _shape(filter_: RequestFilter, *, by_id: bool) -> _Shape:
    models, tiers = filter_.models, filter_.service_tiers
    return _Shape(
        created_by=filter_.created_by is not None,
        status=filter_.status,
        models=None if models is None else min(len(models), 2),
        created_after=filter_.created_after is not None,
        created_before=filter_.created_before is not None,
        service_tiers=None if tiers is None else min(sum(tier is not None for tier in tiers), 2),
        no_tier=tiers is not None and None in tiers,
        metadata=bool(filter_.metadata),
        by_id=by_id,
    )


def _values(filter_: RequestFilter, *, by_id: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if filter_.created_by is not None:
        values["created_by"] = repair(filter_.created_by)
    if models := [repair(model) for model in filter_.models or ()]:
        values["models"] = _one_or_all(models)
    if filter_.created_after is not None:
        values["created_after"] = filter_.created_after
        if by_id:
            values["first_id"] = first_id(max(filter_.created_after, _NO_EARLIER) - ID_SLACK)
    if filter_.created_before is not None:
        values["created_before"] = filter_.created_before
    if tiers := [repair(tier) for tier in filter_.service_tiers or () if tier is not None]:
        values["service_tiers"] = _one_or_all(tiers)
    if filter_.metadata:
        values["metadata"] = json_of(filter_.metadata)
    return values


def _one_or_all(items: list[str]) -> str | list[str]:
    return items[0] if len(items) == 1 else items


def _index_scans(filter_: RequestFilter, position: Position | None) -> tuple[_IndexScan, ...]:
    if not filter_.active_first:
        return (_IndexScan(after=position is not None),)
    if position is not None and not position.active:
        return (_IndexScan(FINISHED_STATES, after=True),)
    # Two index scans, one for the few rows in flight and one for the rest, instead of a sort of the whole table.
    return _IndexScan(ACTIVE_STATES, after=position is not None), _IndexScan(FINISHED_STATES)


_HAS_FACTS: Final = exists().where(
    request_templates.c.id == requests.c.template_id,
    request_templates.c.metadata.contains(cast(bindparam("metadata", type_=Text()), JSONB())),
)
_TEXTS: Final = ARRAY(Text(), dimensions=1)
_ROWS: Final = bindparam("rows", type_=BigInteger())
_OFFSET: Final = bindparam("offset", type_=BigInteger())
_SCANNED: Final = bindparam("scanned", type_=BigInteger())


def _conditions(shape: _Shape) -> list[ColumnElement[bool]]:
    conditions = [visible()]
    if shape.created_by:
        conditions.append(requests.c.created_by == bindparam("created_by", type_=Text()))
    if shape.status is not None:
        conditions.append(in_states((shape.status,)))
    if shape.models is not None:
        conditions.append(_among(requests.c.model, "models", shape.models))
    if shape.created_after:
        conditions.append(requests.c.created_at >= bindparam("created_after", type_=AWARE))
    if shape.by_id:
        conditions.append(requests.c.id >= bindparam("first_id", type_=Uuid()))
    if shape.created_before:
        conditions.append(requests.c.created_at <= bindparam("created_before", type_=AWARE))
    if shape.service_tiers is not None:
        named = _among(requests.c.service_tier, "service_tiers", shape.service_tiers)
        conditions.append(or_(named, requests.c.service_tier.is_(None)) if shape.no_tier else named)
    if shape.metadata:
        conditions.append(_HAS_FACTS)
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
def _page(shape: _Shape, scans: tuple[_IndexScan, ...], row_cap: int) -> Select[Any]:
    scanned = union_all(*(_scan(shape, scan, row_cap) for scan in scans)).subquery()
    page = select(scanned).order_by(*_newest_first(scanned)).limit(_ROWS).offset(_OFFSET)
    # joined after the limit: a page needs the templates of its own rows only
    rows = page.subquery("page")
    columns = [column for column in rows.c if column.name != "template_id"]
    return (
        select(*columns, *TEMPLATE_COLUMNS)
        .select_from(rows.outerjoin(request_templates, rows.c.template_id == request_templates.c.id))
        .order_by(*_newest_first(rows))
    )


def _scan(shape: _Shape, scan: _IndexScan, row_cap: int) -> Select[Any]:
    is_active = literal_column("1" if scan.states == ACTIVE_STATES else "0", Integer).label("is_active")
    query = (
        select(*SUMMARY_COLUMNS, requests.c.template_id, is_active)
        .where(*_conditions(shape))
        .order_by(requests.c.created_at.desc(), requests.c.id.desc())
    )
    if scan.states:
        query = query.where(in_states(scan.states))
    if scan.after:
        key = tuple_(bindparam("after_created_at", type_=AWARE), bindparam("after_id", type_=Uuid()))
        query = query.where(tuple_(requests.c.created_at, requests.c.id) < key)
    # Two LIMITs: for a bind parameter a generic plan assumes a tenth of the table and sorts it, so the inner LIMIT is a
    # literal, rounded up to a power of two to keep the number of statements small.
    bounded = query.limit(literal_column(str(row_cap), Integer)).subquery()
    return select(bounded).order_by(bounded.c.created_at.desc(), bounded.c.id.desc()).limit(_SCANNED)


def _newest_first(rows: Subquery) -> tuple[ColumnElement[Any], ...]:
    return rows.c.is_active.desc(), rows.c.created_at.desc(), rows.c.id.desc()


class Explain(Executable, ClauseElement):
    """Asks for ``EXPLAIN (FORMAT JSON)`` of a query, which holds the planner's estimate of its rows."""

    inherit_cache = False

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(Explain)
def _compile_explain(element: Explain, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "EXPLAIN (FORMAT JSON) " + compiler.process(element.query, **kwargs)

"""What is old out of the tables, or its bodies alone: the oldest first, until the end, a limit or a deadline."""

from __future__ import annotations

import asyncio
import functools
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter._chain.table import IS_KEPT, say_removed
from rwriter._validation import at_least, aware, positive
from rwriter.schema import FINISHED_STATES, dead_letters, request_templates, requests
from rwriter.store._connections import Connections, on_living_connection
from rwriter.store._predicates import AWARE, among_ids, constant, in_states, of_this_library
from rwriter.store._removal import _rows
from rwriter.store._removal._rows import Rows, in_order, next_letters, next_rows, to_remove
from rwriter.store._results import Purge

_BEFORE: Final = bindparam("before", type_=AWARE)

_FINISHED: Final = (requests.c.created_by.is_not(None), in_states(FINISHED_STATES), of_this_library())
_OLD: Final = (*_FINISHED, requests.c.created_at < _BEFORE)
_OLD_LETTERS: Final = dead_letters.c.created_at < _BEFORE

_OLDEST: Final = (
    select(requests.c.created_at)
    .where(*_FINISHED)
    .order_by(requests.c.created_at, requests.c.id)
    .limit(literal_column("1", Integer))
)

# no completion comes that late
_TO_REMOVE: Final = to_remove(false()).where(*_OLD)

_EMPTY: Final = constant("")
_OTHER: Final = requests.alias("other")
_OWN_BODY: Final = and_(
    request_templates.c.body != _EMPTY,
    # a file's templates are the file's to empty
    request_templates.c.file_id.is_(None),
    ~exists().where(_OTHER.c.template_id == request_templates.c.id, _OTHER.c.created_at >= _BEFORE),
)
_HAS_BODY: Final = or_(requests.c.response_body != _EMPTY, requests.c.error != _EMPTY, _OWN_BODY)

_WITH_BODIES: Final = (
    select(requests.c.id, requests.c.created_at, _HAS_BODY.label("has_body"))
    .select_from(requests.outerjoin(request_templates, requests.c.template_id == request_templates.c.id))
    .where(*_OLD)
)
_LOCK_AMONG: Final = (
    select(requests.c.id, requests.c.template_id, IS_KEPT)
    .where(among_ids(requests.c.id), *_OLD)
    .with_for_update(skip_locked=True)
)


def _emptied(column: ColumnElement[str]) -> ColumnElement[str | None]:
    # not null: the checks of the table ask for a text where there was one
    return case((column.is_not(None), _EMPTY))


_EMPTY_ANSWERS: Final = (
    update(requests)
    .where(among_ids(requests.c.id))
    .values(response_body=_emptied(requests.c.response_body), error=_emptied(requests.c.error))
)
_EMPTY_QUESTIONS: Final = (
    update(request_templates).where(among_ids(request_templates.c.id), _OWN_BODY).values(body=_EMPTY)
)


class _Step(NamedTuple):
    """One chunk: the last row looked at, how many rows were removed, and True if there was no other behind them."""

    last: Any
    number: int
    at_end: bool


class _Walk:
    """Goes from chunk to chunk, until the end, ``limit`` rows or the deadline."""

    def __init__(self, limit: int | None, budget: timedelta | None, rest: float) -> None:
        self.cut_short = False
        self._left: float = math.inf if limit is None else limit
        self._deadline = math.inf if budget is None else time.monotonic() + budget.total_seconds()
        self._rest: Final = rest

    async def to_the_end(self, step: Callable[[int, Any], Awaitable[_Step]]) -> int:
        """Take one step after the other, each behind the last row of the one before. Returns the rows removed."""
        total, last = 0, None
        while self._left > 0 and time.monotonic() < self._deadline:
            began = time.monotonic()
            size = int(min(self._left, _rows.CHUNK))
            done = await on_living_connection(functools.partial(step, size, last))
            total, last = total + done.number, done.last
            self._left -= done.number
            if done.at_end:
                return total
            # live traffic has the server for itself meanwhile
            await asyncio.sleep(min((time.monotonic() - began) * self._rest, self._deadline - time.monotonic()))
        self.cut_short = True
        return total


async def purgeable(connections: Connections, before: datetime, *, bodies_only: bool) -> Purge:
    """Return what ``purge`` would do. See ``RequestStore.purgeable``."""
    aware("before", before)
    rows = _WITH_BODIES.where(_HAS_BODY) if bodies_only else _TO_REMOVE
    letters = select(dead_letters.c.id).where(_OLD_LETTERS)
    query = select(*(select(func.count()).select_from(each.subquery()).scalar_subquery() for each in (rows, letters)))
    async with connections.query(consistent=False) as connection:
        requests_old, letters_old = (await connection.execute(query, {"before": before})).one()
    return Purge(requests_old, letters_old, remaining=requests_old + letters_old > 0)


async def oldest_finished(connections: Connections) -> datetime | None:
    """Return when the oldest request that ``purge`` may delete began. See ``RequestStore.oldest_finished``."""
    async with connections.query(consistent=True) as connection:
        moment: datetime | None = (await connection.execute(_OLDEST)).scalar_one_or_none()
    return moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def purge(
    rows: Rows, before: datetime, *, bodies_only: bool, limit: int | None, budget: timedelta | None, rest: float
) -> Purge:
    """Delete what is older than ``before``, or its bodies. See ``RequestStore.purge``."""
    aware("before", before)
    at_least("rest", rest, 0)
    if limit is not None:
        at_least("limit", limit, 1)
    if budget is not None:
        positive("budget", budget)
    walk = _Walk(limit, budget, rest)
    step = _empty_bodies if bodies_only else _remove_requests
    requests_gone = await walk.to_the_end(functools.partial(step, rows, before))
    letters_gone = await walk.to_the_end(functools.partial(_remove_letters, rows, before))
    return Purge(requests_gone, letters_gone, walk.cut_short)


async def _remove_requests(rows: Rows, before: datetime, size: int, last: Any) -> _Step:
    statement, key = next_rows(_TO_REMOVE, size, last)
    found, number = await rows.remove("purged", statement, {"before": before} | key)
    return _Step(found[-1] if found else last, number, len(found) < size)


async def _empty_bodies(rows: Rows, before: datetime, size: int, last: Any) -> _Step:
    # a page of rows with or without bodies: those emptied long ago are walked past, a bounded number at a time
    page, key = in_order(_WITH_BODIES, _rows.CHUNK, last)
    async with rows.connections.transaction() as connection:
        found = (await connection.execute(page, {"before": before} | key)).all()
        full = [row for row in found if row.has_body][:size]
        locked = (await connection.execute(_LOCK_AMONG, {"before": before, "ids": [row.id for row in full]})).all()
        await _empty(connection, before, locked)
    at_end = len(found) < _rows.CHUNK and len(full) < size
    seen: Sequence[Any] = full if len(full) == size else found
    return _Step(seen[-1] if seen else last, len(locked), at_end)


async def _empty(connection: AsyncConnection, before: datetime, locked: Sequence[Any]) -> None:
    if not locked:
        return
    await connection.execute(_EMPTY_ANSWERS, {"ids": [row.id for row in locked]})
    templates = [row.template_id for row in locked if row.template_id is not None]
    await connection.execute(_EMPTY_QUESTIONS, {"before": before, "ids": templates})
    if locked[0].ledger_is_kept:
        await say_removed(connection, "purged", [row.id for row in locked], only="bodies")


async def _remove_letters(rows: Rows, before: datetime, size: int, last: uuid.UUID | None) -> _Step:
    statement, key = next_letters(_OLD_LETTERS, size, last)
    gone = await rows.remove_letters("purged", statement, {"before": before} | key)
    return _Step(max(gone, default=last), len(gone), len(gone) < size)

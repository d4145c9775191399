"""Rows out of the tables again: one request, an owner's, or what is old. In bounded transactions."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Executable,
    bindparam,
    delete,
    exists,
    false,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter._validation import at_least, aware
from rwriter.records import repair
from rwriter.schema import FINISHED_STATES, TOMBSTONE_OWNER, dead_letters, request_templates, requests
from rwriter.store._connections import Connections, on_living_connection
from rwriter.store._predicates import (
    AWARE,
    CHUNK,
    OWNER,
    SIZE,
    among_ids,
    completion_may_come,
    in_states,
    of_this_library,
    visible,
)

_BEFORE: Final = bindparam("before", type_=AWARE)

_TO_REMOVE: Final = (requests.c.id, requests.c.template_id, completion_may_come().label("unsettled"))

_LOCK_ONE: Final = (
    select(*_TO_REMOVE)
    .where(
        requests.c.id == bindparam("request_id"),
        visible(),
        or_(OWNER.is_(None), requests.c.created_by == OWNER),
    )
    .with_for_update()
)

_LOCK_OF_OWNER: Final = (
    select(*_TO_REMOVE).where(requests.c.created_by == OWNER, visible()).limit(SIZE).with_for_update(skip_locked=True)
)

_LOCK_BEFORE: Final = (
    # no completion comes that late
    select(requests.c.id, requests.c.template_id, false().label("unsettled"))
    .where(
        requests.c.created_by.is_not(None),
        requests.c.created_at < _BEFORE,
        in_states(FINISHED_STATES),
        of_this_library(),
    )
    # through the index, oldest first: without an order the planner may begin a scan of the whole table for each chunk
    .order_by(requests.c.created_at, requests.c.id)
    .limit(SIZE)
    .with_for_update(skip_locked=True)
)

_DELETE_REQUESTS: Final = delete(requests).where(among_ids(requests.c.id))

# the daemon's batches share the templates of their file, which is the file's to delete
_DELETE_TEMPLATES: Final = delete(request_templates).where(
    among_ids(request_templates.c.id),
    request_templates.c.file_id.is_(None),
    ~exists().where(requests.c.template_id == request_templates.c.id),
)

_BLANK_REQUESTS: Final = (
    update(requests)
    .where(among_ids(requests.c.id))
    .values(
        state="canceled",
        canceled_at=func.now(),
        template_id=null(),
        model="",
        custom_id=null(),
        response_status=null(),
        response_body=null(),
        response_size=0,
        error=null(),
        routed_model=null(),
        created_by=TOMBSTONE_OWNER,
    )
)


def _delete_letters(condition: ColumnElement[bool]) -> Executable:
    chosen = select(dead_letters.c.id).where(condition).limit(SIZE).with_for_update(skip_locked=True).cte("chosen")
    return delete(dead_letters).where(dead_letters.c.id == chosen.c.id)


_LETTERS_OF_OWNER: Final = _delete_letters(dead_letters.c.created_by == OWNER)
_LETTERS_BEFORE: Final = _delete_letters(dead_letters.c.created_at < _BEFORE)


async def delete_request(connections: Connections, request_id: uuid.UUID, created_by: str | None) -> bool:
    """Delete or blank one request and return True if it was there. See ``RequestStore.delete_request``."""
    owner = None if created_by is None else repair(created_by)
    async with connections.transaction() as connection:
        found = (await connection.execute(_LOCK_ONE, {"request_id": request_id, "owner": owner})).all()
        await _remove(connection, found)
    return bool(found)


async def erase(connections: Connections, created_by: str, limit: int) -> int:
    """Delete what is an owner's, up to ``limit`` rows, and return how many. See ``RequestStore.erase``."""
    owner = {"owner": repair(created_by).strip()}
    return await _in_chunks(connections, limit, _LOCK_OF_OWNER, _LETTERS_OF_OWNER, owner)


async def purge(connections: Connections, before: datetime, limit: int) -> int:
    """Delete what is older than ``before``, up to ``limit`` rows, and return how many. See ``RequestStore.purge``."""
    aware("before", before)
    return await _in_chunks(connections, limit, _LOCK_BEFORE, _LETTERS_BEFORE, {"before": before})


async def _in_chunks(
    connections: Connections, limit: int, lock: Executable, letters: Executable, parameters: dict[str, Any]
) -> int:
    at_least("limit", limit, 1)
    chunks: tuple[Callable[[dict[str, Any]], Awaitable[int]], ...] = (
        functools.partial(_remove_requests, connections, lock),
        functools.partial(_remove_letters, connections, letters),
    )
    left = limit
    for chunk in chunks:
        while left:
            size = min(left, CHUNK)
            number = await on_living_connection(functools.partial(chunk, parameters | {"size": size}))
            left -= number
            if number < size:
                break
    return limit - left


async def _remove_requests(connections: Connections, lock: Executable, parameters: dict[str, Any]) -> int:
    async with connections.transaction() as connection:
        found = (await connection.execute(lock, parameters)).all()
        await _remove(connection, found)
    return len(found)


async def _remove_letters(connections: Connections, statement: Executable, parameters: dict[str, Any]) -> int:
    async with connections.transaction() as connection:
        return (await connection.execute(statement, parameters)).rowcount


async def _remove(connection: AsyncConnection, found: Iterable[Any]) -> None:
    """Blank the rows whose completion may still come, delete the others, and then the templates of both."""
    rows = list(found)
    for statement, ids in (
        (_BLANK_REQUESTS, [row.id for row in rows if row.unsettled]),
        (_DELETE_REQUESTS, [row.id for row in rows if not row.unsettled]),
        (_DELETE_TEMPLATES, [row.template_id for row in rows if row.template_id is not None]),
    ):
        if ids:
            await connection.execute(statement, {"ids": ids})

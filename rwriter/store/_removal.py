"""Rows out of the tables again: one request, an owner's, or what is old. In bounded transactions."""

from __future__ import annotations

import asyncio
import functools
import logging
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
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter._validation import at_least, aware
from rwriter.engines import schema_of
from rwriter.records import repair
from rwriter.schema import FINISHED_STATES, TOMBSTONE_OWNER, dead_letters, erasures, request_templates, requests
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
    owner_digest,
    visible,
)
from rwriter.store._results import Erasure

log = logging.getLogger("rwriter")

_PASSES: Final = 20
_PAUSE: Final = 0.1
"""Passes, and seconds between them, over an owner's rows while some are locked."""

_WRITER_POLLS: Final = 100
_WRITER_PAUSE: Final = 0.02

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

_OWNERS_ARE_LEFT: Final = select(
    or_(
        exists().where(requests.c.created_by == OWNER, visible()),
        exists().where(dead_letters.c.created_by == OWNER),
    )
)

_ERASE: Final = pg_insert(erasures).values(owner_digest=bindparam("digest"), erased_at=func.clock_timestamp())
_MARK_ERASED: Final = _ERASE.on_conflict_do_update(
    index_elements=[erasures.c.owner_digest],
    set_={"erased_at": func.greatest(_ERASE.excluded.erased_at, erasures.c.erased_at)},
).returning(erasures.c.erased_at)

# transactions that may insert what they read as not erased: they began to write before the mark was there
_WRITERS: Final = text(
    """
    SELECT virtualtransaction FROM pg_locks
    WHERE relation IN (to_regclass(:requests), to_regclass(:letters)) AND mode = 'RowExclusiveLock' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()
    """
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
    was_there = False

    async def attempt() -> None:
        # found, it is gone even where the connection dies with the answer to COMMIT, and is not found again
        nonlocal was_there
        owner = None if created_by is None else repair(created_by)
        async with connections.transaction() as connection:
            found = (await connection.execute(_LOCK_ONE, {"request_id": request_id, "owner": owner})).all()
            was_there = was_there or bool(found)
            await _remove(connection, found)

    await on_living_connection(attempt)
    return was_there


async def erase(connections: Connections, created_by: str) -> Erasure:
    """Delete what is an owner's, to the end. See ``RequestStore.erase``."""
    name = repair(created_by).strip()
    erased_at = await on_living_connection(functools.partial(_mark_erased, connections, name))
    await on_living_connection(functools.partial(_earlier_writers_end, connections))
    owner = {"owner": name}
    requests_gone = letters_gone = 0
    for attempt in range(_PASSES):
        if attempt:
            await asyncio.sleep(_PAUSE)
        requests_gone += await _to_the_end(functools.partial(_remove_requests, connections, _LOCK_OF_OWNER), owner)
        letters_gone += await _to_the_end(functools.partial(_remove_letters, connections, _LETTERS_OF_OWNER), owner)
        if not await on_living_connection(functools.partial(_is_left, connections, owner)):
            break
    else:
        log.warning("some rows of an erased owner are locked by another transaction: call erase() again when it ended")
    return Erasure(requests_gone, letters_gone, erased_at)


async def _mark_erased(connections: Connections, owner: str) -> datetime:
    async with connections.transaction() as connection:
        moment: datetime = (await connection.execute(_MARK_ERASED, {"digest": owner_digest(owner)})).scalar_one()
    return moment


async def _is_left(connections: Connections, owner: dict[str, Any]) -> bool:
    async with connections.query(consistent=True) as connection:
        return bool((await connection.execute(_OWNERS_ARE_LEFT, owner)).scalar_one())


async def _to_the_end(chunk: Callable[[dict[str, Any]], Awaitable[int]], parameters: dict[str, Any]) -> int:
    total = 0
    while True:
        number = await on_living_connection(functools.partial(chunk, parameters | {"size": CHUNK}))
        total += number
        if number < CHUNK:
            return total


async def _earlier_writers_end(connections: Connections) -> None:
    """Wait for the transactions that were writing when the mark was set, for a bounded time."""
    engine = connections.write
    quote, schema = engine.dialect.identifier_preparer.quote_identifier, schema_of(engine)
    prefix = "" if schema is None else quote(schema) + "."
    parameters = {"requests": prefix + "requests", "letters": prefix + "dead_letters"}
    waited_for: set[str] | None = None
    for _ in range(_WRITER_POLLS):
        async with connections.query(consistent=True) as connection:
            writing = set((await connection.execute(_WRITERS, parameters)).scalars())
        waited_for = writing if waited_for is None else waited_for & writing
        if not waited_for:
            return
        await asyncio.sleep(_WRITER_PAUSE)


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

"""One request, or everything of an owner's, out of the tables: the owner's mark first, then the rows to the end."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, exists, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert as pg_insert

from rwriter._values.texts import repair
from rwriter.engines import schema_of
from rwriter.schema import dead_letters, erasures, requests
from rwriter.store._connections import Connections, on_living_connection
from rwriter.store._predicates import OWNER, completion_may_come, owner_digest, visible
from rwriter.store._removal import _rows
from rwriter.store._removal._rows import Rows, next_letters, next_rows, to_remove
from rwriter.store._results import Erasure

log = logging.getLogger("rwriter")

_PASSES: Final = 20
_PAUSE: Final = 0.1
"""Passes, and seconds between them, over an owner's rows while some are locked."""

_WRITER_POLLS: Final = 100
_WRITER_PAUSE: Final = 0.02

_LOCK_ONE: Final = (
    to_remove(completion_may_come())
    .where(
        requests.c.id == bindparam("request_id"),
        visible(),
        or_(OWNER.is_(None), requests.c.created_by == OWNER),
    )
    .with_for_update()
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

_OF_OWNER: Final = to_remove(completion_may_come()).where(requests.c.created_by == OWNER, visible())
_LETTERS_OF_OWNER: Final = dead_letters.c.created_by == OWNER


async def delete_request(rows: Rows, request_id: uuid.UUID, created_by: str | None) -> bool:
    """Delete or blank one request and return True if it was there. See ``RequestStore.delete_request``."""
    owner = None if created_by is None else repair(created_by)
    was_there = False

    def locked(found: Sequence[Any]) -> None:
        # it is gone even where the connection dies with the answer to COMMIT, and is not found again
        nonlocal was_there
        was_there = was_there or bool(found)

    parameters = {"request_id": request_id, "owner": owner}
    await on_living_connection(functools.partial(rows.remove, "erased", _LOCK_ONE, parameters, locked))
    return was_there


async def erase(rows: Rows, created_by: str) -> Erasure:
    """Delete what is an owner's, to the end. See ``RequestStore.erase``."""
    name = repair(created_by).strip()
    connections = rows.connections
    erased_at = await on_living_connection(functools.partial(_mark_erased, connections, name))
    await on_living_connection(functools.partial(_earlier_writers_end, connections))
    owner = {"owner": name}
    requests_gone = letters_gone = 0
    for attempt in range(_PASSES):
        if attempt:
            await asyncio.sleep(_PAUSE)
        requests_gone += await _remove_requests(rows, owner)
        letters_gone += await _remove_letters(rows, owner)
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


async def _remove_requests(rows: Rows, owner: dict[str, Any]) -> int:
    total, last = 0, None
    while True:
        statement, key = next_rows(_OF_OWNER, _rows.CHUNK, last)
        found, number = await on_living_connection(functools.partial(rows.remove, "erased", statement, owner | key))
        total += number
        if len(found) < _rows.CHUNK:
            return total
        last = found[-1]


async def _remove_letters(rows: Rows, owner: dict[str, Any]) -> int:
    total, last = 0, None
    while True:
        statement, key = next_letters(_LETTERS_OF_OWNER, _rows.CHUNK, last)
        gone = await on_living_connection(functools.partial(rows.remove_letters, "erased", statement, owner | key))
        total += len(gone)
        if len(gone) < _rows.CHUNK:
            return total
        last = max(gone)


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

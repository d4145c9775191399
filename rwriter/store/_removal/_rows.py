"""One chunk of rows removed: deleted, or blanked where a row has to stay, in one transaction."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Executable,
    Integer,
    Select,
    Uuid,
    bindparam,
    delete,
    exists,
    literal_column,
    null,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter._chain.entries import Kind
from rwriter._chain.table import IS_KEPT, say_removed
from rwriter._database_errors import sqlstate_of
from rwriter.engines import schema_of
from rwriter.schema import TOMBSTONE_OWNER, dead_letters, request_templates, requests
from rwriter.store._connections import Connections
from rwriter.store._predicates import AWARE, CHUNK, IDS, among_ids, constant

__all__ = ("CHUNK", "Rows", "in_order", "next_letters", "next_rows", "to_remove")

log = logging.getLogger("rwriter")

_REFERENCED: Final = ("23503", "23001")
_NOT_ALLOWED: Final = "42501"


def to_remove(unsettled: ColumnElement[bool]) -> Select[Any]:
    """Return a query for the columns that ``Rows.remove`` needs of the rows it is to lock.

    ``unsettled`` matches the rows whose completion may still bring their data back: they are blanked.
    """
    is_blank = requests.c.created_by == constant(TOMBSTONE_OWNER)
    return select(
        requests.c.id,
        requests.c.template_id,
        requests.c.created_at,
        unsettled.label("unsettled"),
        is_blank.label("is_blank"),
        IS_KEPT,
    )


_DELETE_REQUESTS: Final = delete(requests).where(among_ids(requests.c.id))

# the daemon's batches share the templates of their file, which is the file's to delete
_DELETE_TEMPLATES: Final = delete(request_templates).where(
    among_ids(request_templates.c.id),
    request_templates.c.file_id.is_(None),
    ~exists().where(requests.c.template_id == request_templates.c.id),
)

_EMPTIED: Final = (
    *("template_id", "custom_id", "response_status", "response_body", "error", "routed_model"),
    *("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "first_token_at"),
)

_BLANK_REQUESTS: Final = (
    update(requests)
    .where(among_ids(requests.c.id))
    .values(
        {name: null() for name in _EMPTIED}
        | {
            "state": "canceled",
            "canceled_at": literal_column("now()"),
            "model": "",
            "response_size": 0,
            "created_by": TOMBSTONE_OWNER,
        }
    )
)

# of foreign keys on partitions the one of the whole table; those that cascade or set null stop no deletion
_FOREIGN_KEYS: Final = text(
    """
    SELECT format('%I.%I', n.nspname, c.relname) AS child, quote_ident(a.attname) AS referring, k.conname AS name
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN pg_attribute r ON r.attrelid = k.confrelid AND r.attnum = k.confkey[1] AND r.attname = 'id'
    WHERE k.contype = 'f' AND k.confrelid = to_regclass(:requests) AND k.confdeltype IN ('a', 'r')
        AND k.conparentid = 0 AND cardinality(k.conkey) = 1
    ORDER BY 1, 2
    """
)


class Rows:
    """Removes rows of requests and dead letters, over one set of connections.

    A row that a foreign key of the service's own tables protects is blanked instead. That there are such keys is found
    out by a deletion that is refused, and remembered.
    """

    def __init__(self, connections: Connections) -> None:
        self.connections: Final = connections
        self._ways = _WAYS

    async def remove(
        self,
        kind: Kind,
        lock: Select[Any],
        parameters: Mapping[str, Any],
        locked: Callable[[Sequence[Any]], object] = len,
    ) -> tuple[Sequence[Any], int]:
        """Lock rows by a statement made of ``to_remove``, and remove them with their templates.

        Where there is a ledger, an entry of ``kind`` says so. Calls ``locked`` with the rows before it removes them.
        Returns the rows that were locked, and how many of them were removed: one that was blanked before and is still
        referred to is left as it is.
        """
        for way in self._ways[:-1]:
            try:
                return await self._remove(way, kind, lock, parameters, locked)
            except DBAPIError as exc:
                if sqlstate_of(exc) not in _SPARED_FOR[way]:
                    raise
            if self._ways is _WAYS:
                self._ways = _WAYS[1:]
                await self._tell()
        return await self._remove(self._ways[-1], kind, lock, parameters, locked)

    async def _remove(
        self,
        way: _Way,
        kind: Kind,
        lock: Select[Any],
        parameters: Mapping[str, Any],
        locked: Callable[[Sequence[Any]], object],
    ) -> tuple[Sequence[Any], int]:
        async with self.connections.transaction() as connection:
            found = (await connection.execute(lock, parameters)).all()
            locked(found)
            number = await way(connection, found)
            if found and found[0].ledger_is_kept:
                await say_removed(connection, kind, [row.id for row in found])
        return found, number

    async def remove_letters(
        self, kind: Kind, statement: Executable, parameters: Mapping[str, Any]
    ) -> Sequence[uuid.UUID]:
        """Delete dead letters by a statement of ``next_letters``, and return their ids."""
        async with self.connections.transaction() as connection:
            gone = (await connection.execute(statement, parameters)).all()
            if gone and gone[0].ledger_is_kept:
                await say_removed(connection, kind, [letter.request_id for letter in gone])
        return [letter.id for letter in gone]

    async def _tell(self) -> None:
        async with self.connections.query(consistent=True) as connection:
            keys = await _foreign_keys(connection)
        names = ", ".join(f"{key.name} of {key.child}" for key in keys) or "another table's"
        log.warning(
            "foreign keys protect rows that are to be deleted (%s): such rows are blanked, and deleted once nothing "
            "refers to them. ON DELETE CASCADE or SET NULL lets them go at once",
            names,
        )


async def _delete_all(connection: AsyncConnection, found: Sequence[Any]) -> int:
    await _apply(connection, found, spared=())
    return len(found)


async def _delete_unreferenced(connection: AsyncConnection, found: Sequence[Any]) -> int:
    spared = await _referenced(connection, [row.id for row in found])
    await _apply(connection, found, spared=spared)
    return sum(not (row.is_blank and row.id in spared) for row in found)


async def _delete_none(connection: AsyncConnection, found: Sequence[Any]) -> int:
    # a table behind a table refers to one of them, or one that this role may not read
    await _apply(connection, found, spared={row.id for row in found})
    return sum(not row.is_blank for row in found)


_Way: TypeAlias = Callable[[AsyncConnection, Sequence[Any]], Awaitable[int]]
_WAYS: Final[tuple[_Way, ...]] = (_delete_all, _delete_unreferenced, _delete_none)
_SPARED_FOR: Final[dict[_Way, tuple[str, ...]]] = {
    _delete_all: _REFERENCED,
    # a table that refers to requests may be closed to this role
    _delete_unreferenced: (*_REFERENCED, _NOT_ALLOWED),
}


async def _foreign_keys(connection: AsyncConnection) -> Sequence[Any]:
    engine = connection.engine
    quote, schema = connection.dialect.identifier_preparer.quote_identifier, schema_of(engine)
    name = "requests" if schema is None else f"{quote(schema)}.requests"
    return (await connection.execute(_FOREIGN_KEYS, {"requests": name})).all()


async def _referenced(connection: AsyncConnection, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of ``ids`` that a row of another table refers to."""
    found: set[uuid.UUID] = set()
    for key in await _foreign_keys(connection):
        statement = f"SELECT DISTINCT {key.referring} FROM {key.child} WHERE {key.referring} = ANY(:ids)"  # noqa: S608 -- quoted by the server
        found |= set((await connection.execute(text(statement).bindparams(IDS), {"ids": list(ids)})).scalars())
    return found


async def _apply(connection: AsyncConnection, rows: Iterable[Any], *, spared: Iterable[uuid.UUID]) -> None:
    """Blank the rows ``spared`` and those whose completion may still come, delete the others, then the templates."""
    stay = set(spared)
    kept, gone, templates = [], [], []
    for row in rows:
        if row.unsettled or row.id in stay:
            kept += [] if row.is_blank else [row.id]
        else:
            gone.append(row.id)
        if row.template_id is not None:
            templates.append(row.template_id)
    for statement, ids in ((_BLANK_REQUESTS, kept), (_DELETE_REQUESTS, gone), (_DELETE_TEMPLATES, templates)):
        if ids:
            await connection.execute(statement, {"ids": ids})


def next_rows(query: Select[Any], size: int, last: Any | None) -> tuple[Select[Any], dict[str, Any]]:
    """Return the statement and the parameters that lock the ``size`` oldest rows behind the row ``last``.

    By key, so that no chunk reads what was deleted by the ones before it, which is there for as long as a transaction
    might see it. Rows that another transaction has locked are passed over.
    """
    statement, parameters = in_order(query, size, last)
    return statement.with_for_update(skip_locked=True), parameters


def in_order(query: Select[Any], size: int, last: Any | None) -> tuple[Select[Any], dict[str, Any]]:
    """Return ``query`` for the ``size`` oldest rows behind the row ``last``."""
    # a literal: for a bind parameter a generic plan assumes a tenth of the table and sorts it
    query = query.order_by(requests.c.created_at, requests.c.id).limit(literal_column(str(size), Integer))
    if last is None:
        return query, {}
    key = tuple_(bindparam("last_created_at", type_=AWARE), bindparam("last_id", type_=Uuid()))
    behind = query.where(tuple_(requests.c.created_at, requests.c.id) > key)
    # the driver reads infinite times as naive ones
    moment: datetime = last.created_at
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return behind, {"last_created_at": moment, "last_id": last.id}


def next_letters(
    condition: ColumnElement[bool], size: int, last: uuid.UUID | None
) -> tuple[Executable, dict[str, Any]]:
    """Return the statement and the parameters that delete ``size`` letters behind ``last``, by their ids."""
    chosen = select(dead_letters.c.id).where(condition).order_by(dead_letters.c.id)
    chosen = chosen.limit(literal_column(str(size), Integer))
    if last is not None:
        chosen = chosen.where(dead_letters.c.id > bindparam("last_id", type_=Uuid()))
    locked = chosen.with_for_update(skip_locked=True).cte("chosen")
    deletion = delete(dead_letters).where(dead_letters.c.id == locked.c.id)
    statement = deletion.returning(dead_letters.c.id, dead_letters.c.request_id, IS_KEPT)
    return statement, {} if last is None else {"last_id": last}

"""The table ``dead_letters``: refused records, complete, until somebody mends the cause and replays them."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import ClassVar, Final

from sqlalchemy import Executable, Text, Uuid, bindparam, delete, exists, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter._chain.entries import Entry
from rwriter._chain.table import IS_KEPT, insert_entry, say_removed
from rwriter._database_errors import Kind, failure_of
from rwriter._values.guarded import Guarded
from rwriter._values.texts import repair
from rwriter.engines import EngineProvider
from rwriter.records import CompletedRequest, decode_record, encode_record
from rwriter.schema import dead_letters
from rwriter.store._connections import Connections
from rwriter.store._cursor import decode_cursor
from rwriter.store._persist import Persist
from rwriter.store._predicates import AWARE, not_erased

CHUNK: Final = 100
"""Letters ``replay`` reads at a time."""


class DeadLetter(Guarded, frozen=True, kw_only=True):
    """A refused record in a listing. ``size`` is bytes; ``error`` is the database's text, which may quote the row."""

    id: uuid.UUID
    request_id: uuid.UUID
    created_by: str
    sqlstate: str | None
    error: str
    size: int
    created_at: datetime

    __shown__: ClassVar[tuple[str, ...]] = ("id", "request_id", "created_by", "sqlstate", "size", "created_at")


_SUMMARY = select(
    dead_letters.c.id,
    dead_letters.c.request_id,
    dead_letters.c.created_by,
    dead_letters.c.sqlstate,
    dead_letters.c.error,
    func.octet_length(dead_letters.c.payload).label("size"),
    dead_letters.c.created_at,
)


def _insertion() -> Executable:
    columns = [column for column in dead_letters.columns if column.name != "created_at"]
    values = [bindparam(column.name, type_=column.type) for column in columns]
    owner, started_at = bindparam("created_by", type_=Text()), bindparam("started_at", type_=AWARE)
    return (
        pg_insert(dead_letters)
        .from_select(
            [column.name for column in columns],
            select(*values).where(not_erased(owner, started_at)),
            include_defaults=False,
        )
        .on_conflict_do_nothing(index_elements=[dead_letters.c.id])
    )


_INSERT: Final = _insertion()
_IS_THERE: Final = select(exists().where(dead_letters.c.id == bindparam("id", type_=Uuid())))


async def bury(
    connections: Connections, record: CompletedRequest, *, sqlstate: str | None, error: str, entry: Entry | None = None
) -> bool:
    """Insert a refused record beside the reason, and beside its ``entry`` of the ledger. See ``RequestStore.bury``.

    Returns False where there is no such letter afterwards: its owner was erased.
    """
    payload = encode_record(record)
    letter = {
        "id": uuid.uuid5(record.request_id, hashlib.sha256(payload).hexdigest()),
        "request_id": record.request_id,
        "created_by": record.created_by,
        "sqlstate": sqlstate,
        "error": repair(error),
        "payload": payload,
        "started_at": record.started_at,
    }
    async with connections.transaction() as connection:
        is_there = (await connection.execute(_INSERT, letter)).rowcount == 1
        if entry is not None:
            is_there = is_there or bool(await connection.scalar(_IS_THERE, {"id": letter["id"]}))
            await insert_entry(connection, entry, None if is_there else [record.request_id])
    return is_there


class DeadLetters:
    """Lists, shows, replays and purges dead letters, for operators."""

    def __init__(self, engines: EngineProvider | AsyncEngine, *, schema: str | None = None) -> None:
        self._connections: Final = Connections(engines, schema)
        self._engine: Final = self._connections.write
        self._persist: Final = Persist(self._connections)

    async def listing(
        self, limit: int = 1_000, *, cursor: str | None = None, consistent: bool = True
    ) -> list[DeadLetter]:
        """Return the oldest ``limit`` letters, or those after ``cursor``: ``cursor_after`` of the last one listed.

        ``consistent=False`` asks the replica. Raises ``InvalidCursor`` for a cursor this library did not make.
        """
        key = dead_letters.c.created_at, dead_letters.c.id
        query = _SUMMARY.order_by(*key).limit(limit)
        if cursor is not None:
            position = decode_cursor(cursor)
            query = query.where(
                tuple_(*key) > tuple_(literal(position.created_at, AWARE), literal(position.id, Uuid()))
            )
        async with self._connections.query(consistent=consistent) as connection:
            return [DeadLetter(**row) for row in (await connection.execute(query)).mappings()]

    async def get(self, letter_id: uuid.UUID, *, consistent: bool = True) -> DeadLetter | None:
        """Return one letter as it is listed, or ``None`` where there is no such letter."""
        async with self._connections.query(consistent=consistent) as connection:
            row = (await connection.execute(_SUMMARY.where(dead_letters.c.id == letter_id))).mappings().one_or_none()
        return None if row is None else DeadLetter(**row)

    async def show(
        self, letter_id: uuid.UUID, *, most_bytes: int | None = None, consistent: bool = True
    ) -> CompletedRequest | None:
        """Return the record in one letter, or ``None`` where there is no such letter of ``most_bytes`` or fewer."""
        query = select(dead_letters.c.payload).where(dead_letters.c.id == letter_id)
        if most_bytes is not None:
            query = query.where(func.octet_length(dead_letters.c.payload) <= most_bytes)
        async with self._connections.query(consistent=consistent) as connection:
            payload = (await connection.execute(query)).scalar_one_or_none()
        return None if payload is None else decode_record(payload)

    async def replay(self, letter_id: uuid.UUID | None = None) -> tuple[int, int]:
        """Store the record of one letter, or of all. Returns how many are stored now, and how many are still refused.

        A letter is removed after its record's commit, so that a replay cut short is simply repeated. Raises what the
        database raises when it is not the record's fault.
        """
        stored = refused = 0
        after: uuid.UUID | None = None
        while True:
            letters = await self._chunk(letter_id, after)
            for identity, payload in letters:
                if await self._store_again(identity, payload):
                    stored += 1
                else:
                    refused += 1
                after = identity
            if letter_id is not None or len(letters) < CHUNK:
                return stored, refused

    async def purge(self, before: datetime) -> int:
        """Delete letters written before ``before`` and return how many."""
        purged = delete(dead_letters).where(dead_letters.c.created_at < before)
        async with self._engine.begin() as connection:
            gone = (await connection.execute(purged.returning(dead_letters.c.request_id, IS_KEPT))).all()
            if gone and gone[0].ledger_is_kept:
                await say_removed(connection, "purged", [letter.request_id for letter in gone])
        return len(gone)

    async def _chunk(self, letter_id: uuid.UUID | None, after: uuid.UUID | None) -> list[tuple[uuid.UUID, bytes]]:
        query = select(dead_letters.c.id, dead_letters.c.payload).order_by(dead_letters.c.id).limit(CHUNK)
        if letter_id is not None:
            query = query.where(dead_letters.c.id == letter_id)
        elif after is not None:
            query = query.where(dead_letters.c.id > after)
        async with self._engine.connect() as connection:
            return [(row.id, row.payload) for row in await connection.execute(query)]

    async def _store_again(self, letter_id: uuid.UUID, payload: bytes) -> bool:
        try:
            await self._persist([decode_record(payload)])
        except Exception as exc:
            if failure_of(exc) is not Kind.DATA:
                raise
            return False
        async with self._engine.begin() as connection:
            await connection.execute(delete(dead_letters).where(dead_letters.c.id == letter_id))
        return True

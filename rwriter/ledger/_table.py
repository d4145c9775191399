"""Entries written and looked up by themselves, over the connections of a store."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Final

from sqlalchemy import BigInteger, Uuid, bindparam, select
from sqlalchemy.dialects.postgresql import insert as pg_insert

from rwriter._chain.entries import Entry, Outcome
from rwriter._chain.statement import outcome_of
from rwriter._chain.table import row_of
from rwriter.schema import ledger
from rwriter.store._connections import Connections

_INSERT_ONCE: Final = pg_insert(ledger).on_conflict_do_nothing(index_elements=[ledger.c.writer_id, ledger.c.seq])

_FOUND: Final = select(ledger.c.digest, ledger.c.skipped, ledger.c.begun).where(
    ledger.c.writer_id == bindparam("writer_id", type_=Uuid()), ledger.c.seq == bindparam("seq", type_=BigInteger())
)


async def append(connections: Connections, entries: Iterable[Entry]) -> None:
    """Insert entries that nobody else could have written otherwise: those that are there already are the same."""
    async with connections.transaction() as connection:
        await connection.execute(_INSERT_ONCE, [row_of(entry) for entry in entries])


async def found(connections: Connections, lane: uuid.UUID, seq: int) -> tuple[bytes, Outcome] | None:
    """Return digest and outcome of an entry, or ``None`` where there is none. Asks the primary."""
    async with connections.query(consistent=True) as connection:
        row = (await connection.execute(_FOUND, {"writer_id": lane, "seq": seq})).one_or_none()
    return None if row is None else (bytes(row.digest), outcome_of(row.skipped, row.begun))

"""Entries as rows of the table ``ledger``, in a transaction of whoever removes or refuses records."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter._chain.entries import Entry, Head, Kind, ids_of, new_writer_id, packed
from rwriter._chain.secret import current_key
from rwriter.schema import ledger

_INSERT: Final = pg_insert(ledger)

IS_KEPT: Final = exists(select(ledger.c.seq)).label("ledger_is_kept")
"""A column of any query: True where there is a ledger, so that whoever removes rows has to make an entry."""


def row_of(entry: Entry, skipped: Sequence[uuid.UUID] | None = None) -> dict[str, Any]:
    """Return the row of ``entry``."""
    return {
        "writer_id": entry.lane,
        "seq": entry.seq,
        "kind": entry.kind,
        "ids": ids_of(entry.ids),
        "number": entry.number,
        "tags": entry.tags,
        "digest": entry.digest,
        "previous": entry.previous,
        "account": entry.account,
        "skipped": skipped,
        "begun": None,
    }


async def insert_entry(connection: AsyncConnection, entry: Entry, skipped: Sequence[uuid.UUID] | None = None) -> None:
    """Insert ``entry``. A number that is taken raises, as in the statement that stores rows."""
    await connection.execute(_INSERT, row_of(entry, skipped))


async def say_removed(connection: AsyncConnection, kind: Kind, ids: Iterable[uuid.UUID], **account: Any) -> None:
    """Write the entry of rows that are removed, in the transaction in which they go.

    It is a chain of its own: a removal cut short is repeated by whoever, and has nothing to follow.
    """
    key = current_key()
    told = {**account, "key": key.id}
    await insert_entry(connection, Head(new_writer_id()).followed_by(key, kind, ids=packed(sorted(ids)), account=told))


async def is_kept(connection: AsyncConnection) -> bool:
    """Return True where there is a ledger."""
    return bool((await connection.execute(select(IS_KEPT))).scalar_one())

"""The planner is told how to join: it knows nothing of how many ids lie in an array, and may guess a day's work."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_SET: Final = text(
    "SELECT set_config('enable_nestloop', :by_index, true), set_config('enable_hashjoin', :by_hash, true), "
    "set_config('enable_mergejoin', 'off', true)"
)


async def join_by_index(connection: AsyncConnection) -> None:
    """Join what follows in this transaction row by row: some thousand ids with a table of any size."""
    await connection.execute(_SET, {"by_index": "on", "by_hash": "off"})


async def join_by_hash(connection: AsyncConnection) -> None:
    """Join what follows in this transaction as a whole: every id of the ledger with every row."""
    await connection.execute(_SET, {"by_index": "off", "by_hash": "on"})

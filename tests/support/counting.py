"""Count what a call costs: function calls here; rows read and written, and WAL, in the server."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


class Calls:
    """Function calls, Python's and C's, on this thread: a machine's instructions vary with its make, these do not."""

    number = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        def count(_frame: Any, happening: str, _argument: Any) -> None:
            if happening in {"call", "c_call"}:
                self.number += 1

        before, collecting = sys.getprofile(), gc.isenabled()
        # a collection runs finalizers, anybody's
        gc.disable()
        sys.setprofile(count)
        try:
            yield
        finally:
            sys.setprofile(before)
            if collecting:
                gc.enable()


async def calls_of(work: Callable[[], Awaitable[Any]]) -> int:
    """Return the number of calls that ``work`` takes, the loop's own while it waits included."""
    calls = Calls()
    with calls.counted():
        await work()
    return calls.number


async def table_counters(engine: AsyncEngine) -> dict[str, Counter[str]]:
    """Return the server's counts for each table since it was made, its partitions together."""
    query = text(
        "SELECT coalesce(parent.relname, s.relname) AS name, n_tup_ins AS inserted, n_tup_upd AS updated,"
        " n_tup_del AS deleted, seq_tup_read AS scanned, coalesce(idx_tup_fetch, 0) AS fetched"
        " FROM pg_stat_user_tables s LEFT JOIN (pg_inherits JOIN pg_class parent ON parent.oid = inhparent)"
        " ON inhrelid = s.relid"
        " WHERE coalesce(parent.relname, s.relname) IN ('requests', 'request_templates', 'dead_letters')"
    )
    counted: dict[str, Counter[str]] = {}
    async with engine.connect() as connection:
        for row in (await connection.execute(query)).mappings():
            counted.setdefault(row["name"], Counter()).update({name: int(row[name]) for name in _COUNTED})
    return counted


_COUNTED: Final = ("inserted", "updated", "deleted", "scanned", "fetched")


async def wal_position(engine: AsyncEngine) -> int:
    """Bytes of WAL since the cluster was made."""
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))).scalar_one())

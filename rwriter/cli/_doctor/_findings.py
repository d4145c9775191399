"""The answer of a check, and the connection and names that the checks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter._database_errors import explain

TABLES: Final = ("requests", "request_templates", "dead_letters")

# the table itself, and of a partitioned one its partitions: both are what the server keeps books on
PARTS: Final = """
    parts AS (
        SELECT t.name, part.oid FROM unnest(CAST(:names AS text[]), CAST(:resolved AS text[])) AS t (name, resolved)
        CROSS JOIN LATERAL (
            SELECT to_regclass(t.resolved)::oid AS oid
            UNION SELECT relid FROM pg_partition_tree(to_regclass(t.resolved))
        ) AS part WHERE part.oid IS NOT NULL
    )
"""


class Finding(msgspec.Struct, frozen=True):
    """The answer of one check. ``status`` is ``ok``, ``warn`` or ``fail``; ``message`` is one line."""

    check: str
    status: str
    message: str


class Patient:
    """The database under examination."""

    def __init__(self, connection: AsyncConnection, schema: str | None) -> None:
        self._connection: Final = connection
        quote = connection.dialect.identifier_preparer.quote_identifier
        self._prefix: Final = "" if schema is None else f"{quote(schema)}."
        self._quote: Final = quote

    def name(self, table: str) -> str:
        """Return the name of a table as SQL."""
        return self._prefix + self._quote(table)

    async def ask(self, query: str, **parameters: Any) -> Sequence[RowMapping]:
        """Return the rows of ``query``, which may use ``PARTS``."""
        if ":resolved" in query:
            parameters |= {"names": list(TABLES), "resolved": [self.name(table) for table in TABLES]}
        return (await self._connection.execute(text(query), parameters)).mappings().all()


def judged(check: str, good: str, bad: str | None, status: str = "warn") -> Finding:
    """Return ``good`` as ``ok`` where nothing is wrong, else ``bad`` with ``status``."""
    return Finding(check, "ok", good) if not bad else Finding(check, status, bad)


def words(exc: BaseException) -> str:
    """Return the reason as one line."""
    return "; ".join(line.strip() for line in (explain(exc) or type(exc).__name__).splitlines()).replace(":;", ":")

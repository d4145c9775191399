"""A test in one outer transaction: the writer and the reader work inside it, and nothing of it stays."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from rwriter.testing._engines import TestDbEngines

_SAVEPOINT: Final = "rwriter_rolled_back"

PATIENCE: Final = 10.0
"""Seconds to wait for the one connection, which a test that holds it open would otherwise wait for in vain."""


@contextlib.asynccontextmanager
async def rolled_back(engine: AsyncEngine, *, schema: str | None = None) -> AsyncIterator[TestDbEngines]:
    """Open one transaction on ``engine`` and yield a provider that works inside it; roll it back at the end.

    What is committed through the provider is a savepoint released: seen through the provider alone, and gone at the
    end. A transaction that fails takes nothing else with it. ``read`` refuses writes, as of any ``TestDbEngines``.
    There is one connection: those who want it wait for each other, ten seconds at most. In one transaction ``now()``
    does not move. The provider belongs to one event loop and to no other thread or process.

    Raises ``TypeError`` for what is no ``AsyncEngine``. ``engine`` itself is the caller's and is never disposed.
    """
    # what it refuses, it refuses before a connection is opened
    TestDbEngines(engine)
    async with engine.connect() as outer:
        # also where the engine's own way is AUTOCOMMIT
        await outer.execution_options(isolation_level="READ COMMITTED")
        transaction = await outer.begin()
        adapted = (await outer.get_raw_connection()).dbapi_connection
        inner = _engine_inside(engine, adapted)
        try:
            yield TestDbEngines(inner, schema=schema)
        finally:
            await inner.dispose()
            await transaction.rollback()


def _engine_inside(engine: AsyncEngine, adapted: Any) -> AsyncEngine:
    nested = _Nested(adapted)
    pool = AsyncAdaptedQueuePool(lambda: nested, pool_size=1, max_overflow=0, timeout=PATIENCE, dialect=engine.dialect)
    # AUTOCOMMIT and the like were for the connection, which has its transaction by now
    options = {name: value for name, value in engine.get_execution_options().items() if name != "isolation_level"}
    return AsyncEngine(Engine(pool, engine.dialect, engine.url, execution_options=options, hide_parameters=True))


class _Nested:
    """A DBAPI connection whose transactions are savepoints in the transaction of another."""

    def __init__(self, adapted: Any) -> None:
        self._adapted: Final = adapted
        self._open = False
        self._abandoned = False
        # the names that the drivers' adapters have for it
        self.readonly = self.read_only = self.autocommit = self.deferrable = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapted, name)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Open a cursor, and the savepoint before it."""
        if self._abandoned or self.autocommit:
            self.rollback()
        if not self._open:
            self._say(f"SAVEPOINT {_SAVEPOINT}")
            self._open = True
            if self.readonly or self.read_only:
                # it ends with the savepoint
                self._say("SET TRANSACTION READ ONLY")
        return self._adapted.cursor(*arguments, **options)

    def commit(self) -> None:
        """Keep what was done since the savepoint, for as long as the outer transaction lasts."""
        if self._open:
            self._say(f"RELEASE SAVEPOINT {_SAVEPOINT}")
            self._open = False

    def rollback(self) -> None:
        """Undo what was done since the savepoint; with AUTOCOMMIT, only what failed."""
        keep, self._abandoned = self.autocommit and not self._abandoned, False
        if self._open and not (keep and self._kept()):
            self._say(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            self.commit()

    def set_isolation_level(self, level: Any) -> None:
        """Note AUTOCOMMIT, in asyncpg's way; any other level stays that of the outer transaction."""
        if isinstance(level, str):
            self.set_autocommit(level == "autocommit")

    def set_autocommit(self, value: Any) -> None:
        """Note whether each statement is kept as soon as it has run."""
        self.rollback()
        self.autocommit = bool(value)

    def set_read_only(self, value: Any) -> None:
        """Note whether the next transactions may write."""
        self.read_only = bool(value)

    def set_deferrable(self, value: Any) -> None:
        """Note what is without effect inside a transaction."""
        self.deferrable = bool(value)

    def close(self) -> None:
        """Leave the connection open, which is the outer transaction's; undo later what was not committed."""
        self._abandoned = True

    terminate = close

    def _kept(self) -> bool:
        try:
            self.commit()
        except self._adapted.dbapi.Error:  # the statement failed
            return False
        return True

    def _say(self, statement: str) -> None:
        cursor = self._adapted.cursor()
        cursor.execute(statement)
        cursor.close()

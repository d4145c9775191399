"""Engines that a service's tests use in place of production's."""

from __future__ import annotations

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter.engines import check_engine, in_schema


class TestDbEngines:
    """A provider over one test engine, whose ``read`` opens only read-only transactions.

    A write routed to the reader fails in the test (SQLSTATE 25006) instead of in production, where ``read`` is a
    replica. The caller owns the engine: it is never disposed here. ``direct`` as in ``DbEngines``.

    Raises ``TypeError`` and ``ValueError`` as ``DbEngines`` for what is no engine, or of a driver it does not run on.
    """

    __test__ = False  # the name begins with Test: pytest, this is no test case

    def __init__(self, engine: AsyncEngine, *, schema: str | None = None, direct: bool = False) -> None:
        check_engine("engine", engine)
        self.direct: Final[bool] = direct
        self._write = in_schema(engine, schema)
        self._read = self._write.execution_options(postgresql_readonly=True)

    @property
    def write(self) -> AsyncEngine:
        """The engine itself."""
        return self._write

    @property
    def read(self) -> AsyncEngine:
        """The engine, in read-only transactions."""
        return self._read

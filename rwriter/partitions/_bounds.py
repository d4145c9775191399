"""The ids that a database takes, kept by a writer so that it refuses the others before they are in a batch."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter.engines import schema_of
from rwriter.errors import NO_PARTITION, IdRefused
from rwriter.partitions._catalog import ranges_of, read
from rwriter.schema import first_id

FRESH: Final = 5.0
"""Seconds for which the partitions that were read last are taken to be all there are."""

TIMEOUT: Final = 2.0
"""Seconds that a sender waits for the partitions to be read again."""

_TIME_ORDERED: Final = 7

log = logging.getLogger("rwriter")


class IdBounds:
    """Knows which ids the database takes: every one on plain tables, those of its partitions otherwise.

    Until ``learn`` was called every id passes, and the database decides. ``engine`` is where the partitions are read;
    with ``None``, for a writer that writes elsewhere, every id passes for good.
    """

    def __init__(self, engine: AsyncEngine | None) -> None:
        self.are_limited: bool = False
        """True while some ids are refused. An attribute: on plain tables a sender pays no call for it."""
        self._engine: Final = engine
        self._ranges: list[tuple[int, int]] | None = None
        self._read_at = 0.0
        self._reading: Final = asyncio.Lock()

    async def learn(self) -> None:
        """Read the partitions. Logs an error where none takes ids of now: the writer would refuse every record."""
        await self._read()
        if self._ranges is not None and not self._within(first_id(datetime.now(UTC))):
            log.error("no partition takes ids of now: records are refused until `rwriter partitions ensure` was run")

    def takes(self, identity: uuid.UUID) -> bool:
        """Return True if a partition read before takes ``identity``, or the tables are not partitioned."""
        return self._ranges is None or (identity.version == _TIME_ORDERED and self._within(identity))

    async def check(self, identity: uuid.UUID) -> None:
        """Raise ``IdRefused`` if no partition takes ``identity``. Reads them again where others may have been made.

        Where the database does not answer, the id passes: it is not known to be refused.
        """
        if self.takes(identity):
            return
        is_known = identity.version != _TIME_ORDERED or await self._is_fresh()
        if is_known and not self.takes(identity):
            raise IdRefused(f"{identity} {NO_PARTITION}")

    def check_known(self, identity: uuid.UUID) -> None:
        """Raise ``IdRefused`` if ``identity`` is no UUIDv7, or in no partition according to what was just read.

        Asks nobody: what was read longer ago than ``FRESH`` refuses no id that a new partition may take.
        """
        if self.takes(identity):
            return
        if identity.version != _TIME_ORDERED or time.monotonic() - self._read_at < FRESH:
            raise IdRefused(f"{identity} {NO_PARTITION}")

    def _within(self, identity: uuid.UUID) -> bool:
        return any(first <= identity.int < end for first, end in self._ranges or ())

    async def _is_fresh(self) -> bool:
        """Read the partitions unless that was done just now. Returns False if the database did not answer."""
        try:
            async with asyncio.timeout(TIMEOUT), self._reading:
                if time.monotonic() - self._read_at >= FRESH:
                    await self._read()
        except Exception as exc:  # noqa: BLE001 -- whatever it is, the flush will meet it too and tell
            log.debug("cannot read the partitions, %s", type(exc).__name__)
            return False
        return True

    async def _read(self) -> None:
        if self._engine is None:
            return
        async with self._engine.connect() as connection:
            catalog = await read(connection, schema_of(self._engine))
        takes_all = not catalog.is_partitioned or catalog.has_default
        self._ranges = None if takes_all else ranges_of(catalog)
        self.are_limited = not takes_all
        self._read_at = time.monotonic()

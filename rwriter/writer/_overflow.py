"""To the spool and back: which pending records have a copy on disk is known here alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from rwriter._database_errors import describe
from rwriter.records import CompletedRequest
from rwriter.spool import Spool, SpooledRecord, SpoolStanding
from rwriter.writer._pending import PendingRecord

COPIED_TOGETHER: Final = 500
"""Records of one commit to the spool."""

log = logging.getLogger("rwriter")


class Overflow:
    """Keeps pending records in the spool, and discards the copies of those that reached the database."""

    def __init__(self, spool: Spool) -> None:
        self._spool: Final = spool
        # the number in the spool of each pending record with a copy there, which this process has claimed
        self._copies: Final[dict[PendingRecord, int]] = {}
        self.kept: Final = asyncio.Event()
        """Set when records were put into the spool or given back to it."""
        self.standing: SpoolStanding | None = None
        """How full the spool was at the last ``look``."""

    async def look(self) -> None:
        """Ask the spool how full it is, for the gauges: they are read in threads of the service's own."""
        try:
            self.standing = await self._spool.standing()
        except Exception as exc:  # noqa: BLE001 -- a broken disk must not stop the writer
            self.standing = None
            log.debug("cannot look into the spool: %s", describe(exc))

    async def journal(self, record: CompletedRequest) -> int:
        """Put a copy of ``record`` on disk before it is accepted, and return its number in the spool."""
        return await self._spool.journal(record)

    async def withdraw(self, number: int) -> None:
        """Remove a journaled copy whose record was not accepted."""
        await self._spool.remove([number])

    def has_copy(self, entry: PendingRecord, number: int) -> None:
        """Remember that ``entry`` is in the spool under ``number``."""
        self._copies[entry] = number

    async def copy(self, entries: Iterable[PendingRecord]) -> None:
        """Put a copy of each of ``entries`` on disk, claimed by this process: if it is killed, another replays them.

        Those that find no room there stay in memory alone.
        """
        new = [entry for entry in entries if entry.fate is None and entry not in self._copies]
        # in groups, each one commit: a spool with little room left takes what it can
        for group in (new[start : start + COPIED_TOGETHER] for start in range(0, len(new), COPIED_TOGETHER)):
            found = await asyncio.gather(*map(self._copied, group), return_exceptions=True)
            error = next((each for each in found if isinstance(each, Exception)), None)
            if error is not None:
                log.warning("cannot put all pending records into the spool yet: %s", describe(error))

    async def _copied(self, entry: PendingRecord) -> None:
        if entry.fate is not None:
            return
        number = await self._spool.journal(entry.record)
        if entry.fate is None:
            self._copies[entry] = number
        else:
            await self._spool.remove([number])

    def claimed(self, row: SpooledRecord) -> PendingRecord:
        """Return a pending record for a row that this process has claimed, its copy remembered."""
        entry = PendingRecord(row.record, row.record.text_bytes, row.seq, row.spooled_at)
        self._copies[entry] = row.seq
        return entry

    async def keep(self, entries: Sequence[PendingRecord]) -> tuple[list[PendingRecord], Exception | None]:
        """Keep ``entries`` on disk for anyone to replay. Returns those that found no room there, and why.

        Records with a copy are on disk already: they are given back, and not lost with others that find no room.
        """
        # told apart before the first await: a late flush may discard a copy meanwhile, which makes no record a new one
        journaled = {entry: self._copies[entry] for entry in entries if entry in self._copies}
        new = [entry for entry in entries if entry not in journaled]
        await self._give_back(list(journaled.values()))
        error: Exception | None = None
        if new:
            try:
                await self._spool.put([entry.record for entry in new])
            except Exception as exc:  # noqa: BLE001 -- a full disk must not stop the writer
                error = exc
        lost = new if error is not None else []
        for entry in entries:
            self._copies.pop(entry, None)
        if len(lost) < len(entries):
            self.kept.set()
        return lost, error

    async def discard_copies(self, entries: Iterable[PendingRecord]) -> None:
        """Remove the copies of settled ``entries`` from the spool."""
        settled = [entry for entry in entries if entry.fate is not None and entry in self._copies]
        if not settled:
            return
        numbers = [self._copies.pop(entry) for entry in settled]
        try:
            await self._spool.remove(numbers)
        except Exception as exc:  # noqa: BLE001 -- the row stays and is replayed once more, which changes nothing
            log.warning("cannot remove stored records from the spool: %s", describe(exc))

    async def forget(self, created_by: str, until: datetime, settled: Iterable[PendingRecord]) -> list[UUID]:
        """Delete an owner's records that began up to ``until`` from the spool, whoever has put or claimed them.

        ``settled`` are those of this writer's buffer. Returns the ids of those that were in the spool.
        """
        for entry in settled:
            self._copies.pop(entry, None)
        ids: list[UUID] = []
        await self._spool.forget(created_by, until, ids)
        return ids

    async def set_aside(self, entry: PendingRecord, reason: str) -> bool:
        """Keep a record that even ``dead_letters`` refuses where it is not replayed. Returns False if that failed."""
        number = self._copies.get(entry)
        try:
            if number is None:
                number = await self._spool.journal(entry.record)
            await self._spool.set_aside([number], reason)
        except Exception as exc:  # noqa: BLE001 -- a full disk must not stop the writer
            log.warning("cannot set a record aside in the spool: %s", describe(exc))
            return False
        self._copies.pop(entry, None)
        return True

    async def _give_back(self, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        try:
            await self._spool.release(numbers)
        except Exception as exc:  # noqa: BLE001 -- they are on disk, and given back before the next claim
            log.warning("cannot give records back to the spool yet: %s", describe(exc))

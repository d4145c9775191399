"""A sink that stores records elsewhere, and the entries that say which records were handed to it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, runtime_checkable

from rwriter._chain.entries import Entry
from rwriter.ledger._noting import Note
from rwriter.records import CompletedRequest
from rwriter.sink import RecordSink
from rwriter.store import PersistResult


@runtime_checkable
class EntrySink(Protocol):
    """A sink that takes entries of a ledger, too, and brings them to the database."""

    async def append_entries(self, entries: Sequence[Entry]) -> None:
        """Take ``entries`` for good. Taking them again changes nothing."""


class HandingSink:
    """Does what ``sink`` does, and notes what it took as handed on: as records in a spool are, until they come back."""

    def __init__(self, sink: RecordSink, note: Note) -> None:
        self._sink: Final = sink
        self._note: Final = note

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        """Hand ``records`` on. See ``RecordSink``."""
        result = await self._sink.persist_completed(records)
        self._note("spooled", result.written)
        return result

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        """Hand a refused record on. See ``RecordSink``."""
        await self._sink.bury(record, sqlstate=sqlstate, error=error)
        self._note("dead", [record.request_id])

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of ``ids`` that are known to be taken. See ``RecordSink``."""
        return await self._sink.finished_ids(ids)

    async def check_schema(self) -> None:
        """Raise if records cannot be taken. See ``RecordSink``."""
        await self._sink.check_schema()

    async def identity(self) -> str:
        """Return what tells this destination from any other. See ``RecordSink``."""
        return await self._sink.identity()

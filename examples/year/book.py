"""The book that the year is checked against: what the tables must hold, kept from what the service was told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from rwriter import CompletedRequest, WriterStats
from rwriter.partitions import Partition
from rwriter.schema import made_at

FATES = ("persisted", "skipped", "dead", "spooled", "dropped", "pending")


@dataclass
class Book:
    """Holds the rows that must be there, those without bodies, and the account of every writer so far."""

    rows: dict[UUID, CompletedRequest] = field(default_factory=dict)
    empty: set[UUID] = field(default_factory=set)
    expected: Counter[str] = field(default_factory=Counter)
    account: Counter[str] = field(default_factory=Counter)
    marks_in_spool: int = 0
    """Times that the erased owner's mark stood in the spool's files after the erasure."""

    def stored(self, records: Iterable[CompletedRequest]) -> None:
        """Note rows that are to be there from now on."""
        self.rows |= {record.request_id: record for record in records}

    def erased(self, owner: str) -> int:
        """Strike the rows of an owner, and return how many there were."""
        return self._strike([key for key, record in self.rows.items() if record.created_by == owner])

    def emptied(self, before: datetime) -> None:
        """Note that the bodies of what began before are gone."""
        self.empty |= {key for key, record in self.rows.items() if record.started_at < before}

    def purged(self, before: datetime) -> int:
        """Strike the rows that began before."""
        return self._strike([key for key, record in self.rows.items() if record.started_at < before])

    def dropped(self, partitions: Iterable[Partition]) -> int:
        """Strike the rows of the partitions."""
        spans = [(each.start, each.end) for each in partitions]
        gone = [key for key in self.rows if any(start <= made_at(key) < end for start, end in spans)]
        return self._strike(gone)

    def closed(self, stats: WriterStats) -> None:
        """Add the account of a writer that is closed."""
        self.account.update({name: getattr(stats, name) for name in ("accepted", "replayed", *FATES)})

    def _strike(self, keys: list[UUID]) -> int:
        for key in keys:
            del self.rows[key]
        self.empty -= set(keys)
        return len(keys)

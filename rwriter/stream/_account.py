"""The account of a consumer: what became of the records in the messages that it took."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rwriter.stream._options import ConsumerStats
from rwriter.writer._account import Fate
from rwriter.writer._pending import PendingRecord

ENDS: Final = ("persisted", "skipped", "dead")
"""The fates after which a record is not needed in the stream any more."""


class Account:
    """Gives records their fate, and counts them in ``stats``."""

    def __init__(self) -> None:
        self.stats: Final = ConsumerStats()

    def settle(self, entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        """Give ``entries`` their fate. ``dropped`` is none here: such a record is returned with its message."""
        del error
        settled = [entry for entry in entries if entry.fate is None]
        for entry in settled:
            entry.fate = fate
        if fate in ENDS:
            setattr(self.stats, fate, getattr(self.stats, fate) + len(settled))
            self.stats.pending -= len(settled)
        return len(settled)

    def received(self, number: int) -> None:
        """Count records that were taken out of a message."""
        self.stats.received += number
        self.stats.pending += number

    def returned(self, number: int) -> None:
        """Count records that go back with their message."""
        self.stats.returned += number
        self.stats.pending -= number

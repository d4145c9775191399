"""One record on its way, from its acceptance (or its place in the spool) to its fate."""

from __future__ import annotations

import asyncio
from typing import Final

from rwriter.records import CompletedRequest


class Entry:
    """One accepted record and what is known of it."""

    __slots__ = ("accepted_at", "record", "seq", "settled", "size", "spool_seq", "waiter")

    def __init__(self, record: CompletedRequest, size: int, seq: int, accepted_at: float) -> None:
        self.record: Final = record
        self.size: Final = size
        self.seq: Final = seq
        self.accepted_at: Final = accepted_at
        self.settled = False
        # its number in the spool, when a copy is there too
        self.spool_seq: int | None = None
        self.waiter: asyncio.Future[None] | None = None

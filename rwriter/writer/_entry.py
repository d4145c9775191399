"""One record on its way, from its acceptance (or its place in the spool) to its fate."""

from __future__ import annotations

import asyncio

import msgspec

from rwriter.records import CompletedRequest


# made for every record, by C and out of sight of the garbage collector: nothing an entry refers to refers back to it
# but its waiter, through the frame of who waits, until it is settled
class Entry(msgspec.Struct, eq=False, gc=False):
    """One accepted record and what is known of it. ``spool_seq``: its number in the spool, when a copy is there too."""

    record: CompletedRequest
    size: int
    seq: int
    accepted_at: float
    settled: bool = False
    spool_seq: int | None = None
    waiter: asyncio.Future[None] | None = None

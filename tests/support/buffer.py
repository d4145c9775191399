"""A channel on a clock turned by hand."""

from __future__ import annotations

from rwriter.records import CompletedRequest
from rwriter.writer._account import Account
from rwriter.writer._channel import Channel
from rwriter.writer._pending import PendingRecord


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def channel(*, capacity: int = 10, max_bytes: int = 1_000_000, clock: Clock | None = None) -> Channel:
    made = Channel(Account(), capacity=capacity, max_bytes=max_bytes, clock=clock or Clock())
    made.open()
    return made


async def send_to(made: Channel, record: CompletedRequest) -> PendingRecord:
    """Hand over a record as ``RequestsWriter.send`` does."""
    return made.accept(record, await made.wait_for_room(record))


def store(made: Channel, entries: list[PendingRecord]) -> None:
    made.settle(entries, "persisted")


def balanced(made: Channel) -> bool:
    return made.account.accepted == sum(made.account.fates.values()) + made.pending

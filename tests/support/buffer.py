"""A channel on a clock turned by hand."""

from __future__ import annotations

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


def store(made: Channel, entries: list[PendingRecord]) -> None:
    made.settle(entries, "persisted")


def balanced(made: Channel) -> bool:
    return made.account.accepted == sum(made.account.fates.values()) + made.pending

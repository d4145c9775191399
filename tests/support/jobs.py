"""Jobs for a worker of rq, which ends each of them by ``os._exit``."""

from __future__ import annotations

from rwriter.threaded import ThreadedWriter
from tests.support.records import record

_writers: list[ThreadedWriter] = []


def record_and_leave(url: str, number: int) -> None:
    """Send ``number`` records; leaving the block delivers them."""
    with ThreadedWriter(url, linger=5) as writer:
        for _ in range(number):
            writer.send(record())


def record_and_flush(url: str, number: int) -> None:
    """Send ``number`` records through a writer that is never closed, and flush it."""
    writer = ThreadedWriter(url, linger=5).open()
    _writers.append(writer)
    for _ in range(number):
        writer.send(record())
    writer.flush(timeout=30)

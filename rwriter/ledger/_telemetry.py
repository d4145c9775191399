"""The gauge that shows the last entry of each lane (a no-op until the service installs an SDK)."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from rwriter._chain.entries import Head

SHORT: Final = 8
"""Hex digits of a digest in metrics."""


class Observed(Protocol):
    """A ledger, as the gauge reads it."""

    @property
    def name(self) -> str:
        """The writer's name in metrics."""

    @property
    def heads(self) -> Sequence[Head]:
        """The last entry of each lane."""


# One gauge for all writers of the process: an instrument may be created only once.
_books: weakref.WeakSet[Observed] = weakref.WeakSet()


def _heads(_options: CallbackOptions) -> Iterable[Observation]:
    return [
        Observation(head.seq, {"writer": book.name, "lane": str(head.lane), "digest": head.digest.hex()[:SHORT]})
        for book in list(_books)
        for head in book.heads
    ]


metrics.get_meter("rwriter").create_observable_gauge(
    "rwriter.ledger.head", [_heads], unit="{entry}", description="Number of the last entry of each lane of a ledger."
)


def watch(book: Observed) -> None:
    """Let the gauge report ``book`` for as long as it lives."""
    _books.add(book)

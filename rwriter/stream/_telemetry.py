"""The OpenTelemetry instruments of a consumer (no-ops until the service installs an SDK)."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Literal, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from rwriter.stream._options import ConsumerStats

Outcome = Literal["acknowledged", "returned", "unreadable"]


class Observed(Protocol):
    """A consumer, as the gauge reads it."""

    @property
    def name(self) -> str:
        """The consumer's name in metrics."""

    @property
    def stats(self) -> ConsumerStats:
        """The account now."""


_meter = metrics.get_meter("rwriter")
_messages = _meter.create_counter(
    "rwriter.stream.messages", unit="{message}", description="Messages of the stream by what became of them."
)
_redeliveries = _meter.create_counter(
    "rwriter.stream.redeliveries", unit="{message}", description="Messages that had been delivered before."
)

# One gauge for all consumers of the process: an instrument may be created only once.
_consumers: weakref.WeakSet[Observed] = weakref.WeakSet()


def _lag(_options: CallbackOptions) -> Iterable[Observation]:
    # the stream's, not a consumer's own: of several in one process the latest look will do
    found = {consumer.name: consumer.stats.lag for consumer in list(_consumers)}
    return [Observation(lag, {"consumer": name}) for name, lag in found.items() if lag is not None]


_meter.create_observable_gauge(
    "rwriter.stream.lag", [_lag], unit="{message}", description="Messages of the stream that are not acknowledged."
)


def watch(consumer: Observed) -> None:
    """Let the gauge report ``consumer`` for as long as it lives."""
    _consumers.add(consumer)


def count(consumer: str, outcome: Outcome, *, redelivered: bool) -> None:
    """Count a message, and its redelivery."""
    _messages.add(1, {"consumer": consumer, "outcome": outcome})
    if redelivered:
        _redeliveries.add(1, {"consumer": consumer})

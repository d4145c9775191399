"""``WriterStats``, and the OpenTelemetry instruments (no-ops until the service installs an SDK)."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final, Literal, Protocol

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode

from rwriter._values.answers import Answer
from rwriter.spool import SpoolStanding


class WriterStats(Answer, frozen=True, kw_only=True):
    """The writer's account, exact at every instant.

    ``accepted == persisted + skipped + dead + spooled + dropped + pending``; one record has one fate.

    ========================  ======================================================================
    ``accepted``              records ``send`` or ``send_nowait`` took
    ``persisted``             rows inserted or finished
    ``skipped``               a row with that id was there and may not be touched (a redelivery)
    ``dead``                  refused by the database, kept in ``dead_letters``
    ``spooled``               handed to the spool on disk
    ``dropped``               lost: retries or the drain deadline spent, and no spool (or a full one)
    ``pending``               in the buffer: queued or being written
    ``pending_bytes``         memory the texts of pending records hold
    ``oldest_age``            seconds since the oldest pending record was accepted; 0 when none is
    ``waiting_senders``       ``send`` calls waiting for room
    ``retries``               attempts repeated after a failure
    ``replayed``              records that went from the spool to the database (each was ``spooled``, here or elsewhere)
    ========================  ======================================================================
    """

    accepted: int
    persisted: int
    skipped: int
    dead: int
    spooled: int
    dropped: int
    pending: int
    pending_bytes: int
    oldest_age: float
    waiting_senders: int
    retries: int
    replayed: int = 0


class Health(Answer, frozen=True, kw_only=True):
    """What a readiness probe asks of a writer.

    ===============  ========================================================================================
    ``state``        ``ok``; ``spooling`` or ``holding`` while the database is away and records go to the spool
                     or wait in the buffer; ``failed`` when the writer is not open or its background task died
    ``since``        when that state began
    ``error``        the database's latest error while it is away: class and SQLSTATE, never a row
    ``pending``      records in the buffer
    ``oldest_age``   seconds since the oldest of them was accepted; 0 when there is none
    ``spooled``      records that went to the spool and have not been replayed by this process
    ===============  ========================================================================================
    """

    state: Literal["ok", "spooling", "holding", "failed"]
    since: datetime
    error: str | None
    pending: int
    oldest_age: float
    spooled: int


class Observed(Protocol):
    """A writer, as the gauges read it."""

    @property
    def name(self) -> str:
        """The writer's name in metrics."""

    @property
    def stats(self) -> WriterStats:
        """The account now."""


class ObservedSpool(Protocol):
    """The spool of a writer, as the gauges read it."""

    standing: SpoolStanding | None
    """How full the spool was a moment ago; ``None`` as long as nobody has looked."""


MOST_LINKS: Final = 128
"""Spans that one flush is linked to: as many as the SDK keeps by default."""

_meter = metrics.get_meter("rwriter")
_tracer = trace.get_tracer("rwriter")

_records = _meter.create_counter("rwriter.records", unit="{record}", description="Records by outcome.")
_RECORDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
# the defaults are for milliseconds: of seconds all but the first bucket would be empty
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

_flush_size = _meter.create_histogram(
    "rwriter.flush.size",
    unit="{record}",
    description="Records in a flush.",
    explicit_bucket_boundaries_advisory=_RECORDS,
)
_flush_duration = _meter.create_histogram(
    "rwriter.flush.duration",
    unit="s",
    description="From taking a batch to knowing every record's fate.",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
_retries = _meter.create_counter("rwriter.retries", unit="{attempt}", description="Failed attempts by what followed.")
_dead = _meter.create_counter(
    "rwriter.dead_letters", unit="{record}", description="Records put into dead_letters, by what refused them."
)
_shutdown = _meter.create_counter(
    "rwriter.shutdown.records",
    unit="{record}",
    description="Records pending when a writer was closed, by outcome.",
)

# One gauge for all writers of the process: an instrument may be created only once.
_writers: weakref.WeakSet[Observed] = weakref.WeakSet()


def _observe(field: str, combine: Callable[[list[float]], float]) -> metrics.CallbackT:
    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        # by name: of two observations with the same attributes one would hide the other
        found: defaultdict[str, list[float]] = defaultdict(list)
        for writer in list(_writers):
            found[writer.name].append(getattr(writer.stats, field))
        return [Observation(combine(values), {"writer": name}) for name, values in found.items()]

    return callback


_meter.create_observable_gauge(
    "rwriter.channel.depth", [_observe("pending", sum)], unit="{record}", description="Records in the buffer."
)
_meter.create_observable_gauge(
    "rwriter.channel.bytes", [_observe("pending_bytes", sum)], unit="By", description="Memory their texts hold."
)
_meter.create_observable_gauge(
    "rwriter.oldest_age", [_observe("oldest_age", max)], unit="s", description="Age of the oldest record in the buffer."
)


_meter.create_observable_counter(
    "rwriter.replayed",
    [_observe("replayed", sum)],
    unit="{record}",
    description="Records that went from the spool to the database.",
)


_spools: weakref.WeakKeyDictionary[ObservedSpool, str] = weakref.WeakKeyDictionary()


def _observe_spool(field: str, combine: Callable[[list[float]], float]) -> metrics.CallbackT:
    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        found: defaultdict[str, list[float]] = defaultdict(list)
        for spool, name in list(_spools.items()):
            if spool.standing is not None:
                found[name].append(getattr(spool.standing, field))
        return [Observation(combine(values), {"writer": name}) for name, values in found.items()]

    return callback


_meter.create_observable_gauge(
    "rwriter.spool.records",
    [_observe_spool("records", sum)],
    unit="{record}",
    description="Records in the spool's folder, of whichever process.",
)
_meter.create_observable_gauge(
    "rwriter.spool.set_aside",
    [_observe_spool("set_aside", sum)],
    unit="{record}",
    description="Records in the spool's folder that are not replayed.",
)
_meter.create_observable_gauge(
    "rwriter.spool.bytes", [_observe_spool("bytes", sum)], unit="By", description="Bytes in use in the spool's file."
)
_meter.create_observable_gauge(
    "rwriter.spool.oldest_age",
    [_observe_spool("oldest_age", max)],
    unit="s",
    description="Age of the oldest record in the spool.",
)


def watch_spool(spool: ObservedSpool, writer: str) -> None:
    """Let the gauges report the spool of ``writer`` for as long as it lives."""
    _spools[spool] = writer


def watch(writer: Observed) -> None:
    """Let the gauges report ``writer`` for as long as it lives."""
    _writers.add(writer)


def count(writer: str, fate: str, number: int) -> None:
    """Add to ``rwriter.records``."""
    if number:
        _records.add(number, {"writer": writer, "outcome": fate})


def count_retry(writer: str, outcome: Literal["retried", "exhausted"]) -> None:
    """Add to ``rwriter.retries``: what followed a failed attempt."""
    _retries.add(1, {"writer": writer, "outcome": outcome})


def count_dead(writer: str, sqlstate: str | None) -> None:
    """Add to ``rwriter.dead_letters``: a driver that refuses a value by itself gives no SQLSTATE."""
    _dead.add(1, {"writer": writer, "sqlstate": sqlstate or "none"})


def count_shutdown(writer: str, fate: str, number: int) -> None:
    """Add to ``rwriter.shutdown.records``."""
    _shutdown.add(number, {"writer": writer, "outcome": fate})


def spans_are_recorded() -> bool:
    """Return True if the service has installed an SDK for spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def current_span() -> SpanContext | None:
    """Return the span that the caller is in, if it is recorded."""
    found = trace.get_current_span().get_span_context()
    return found if found.is_valid and found.trace_flags.sampled else None


@contextlib.contextmanager
def flush_span(writer: str, size: int, sent_in: Iterable[SpanContext]) -> Iterator[Span]:
    """Open a span for a flush, linked to the spans that its records were ``sent_in``, each once.

    Exceptions are not recorded on it: their texts can quote a body.
    """
    distinct = {(span.trace_id, span.span_id): span for span in sent_in}
    with _tracer.start_as_current_span(
        "rwriter.flush",
        links=[Link(span) for span in itertools.islice(distinct.values(), MOST_LINKS)],
        attributes={"rwriter.writer": writer, "rwriter.flush.size": size, "db.system.name": "postgresql"},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def flush_failed(span: Span, description: str) -> None:
    """Mark a flush whose records did not all reach their rows."""
    span.set_status(Status(StatusCode.ERROR, description))


def flush_done(writer: str, size: int, seconds: float, *, failed: bool) -> None:
    """Record a flush's size, and its duration by its outcome."""
    _flush_size.record(size, {"writer": writer})
    _flush_duration.record(seconds, {"writer": writer, "outcome": "failed" if failed else "stored"})

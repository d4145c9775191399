"""``RecordSink``: the five calls that a writer makes, for whoever stores records elsewhere than in the tables.

``RequestStore`` is a sink, and so is ``JetStreamStore``. ``rwriter.testing.SINK_CHECKS`` hold any other to the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from rwriter.records import CompletedRequest
from rwriter.store import PersistResult


@runtime_checkable
class RecordSink(Protocol):
    """Takes the finished requests of a ``RequestsWriter``. A call is one attempt: the writer retries, a sink does not.

    The class of an exception tells the writer how to react; the text is for people:

    =========================  =======================================================================================
    ``SinkUnavailable``        away, busy or full: the same records again later; then the spool, or the buffer holds.
                               No record is ever blamed for it. ``OSError`` and ``TimeoutError`` count as the same
    ``SinkRefusedRecord``      one of the records can never be taken: the writer halves the batch, finds it, buries it
    ``SinkMisconfigured``      nothing can be taken until somebody mends the set-up: an outage, and raised on start
    errors of SQLAlchemy       by their SQLSTATE and class
    anything else              as ``SinkMisconfigured``
    =========================  =======================================================================================

    Calls may run at the same time, and each may be cancelled at any await; the writer then makes it again. Everything
    a sink takes it must be able to take twice.
    """

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        """Take ``records`` for good, all of them or none, and return which were taken by this call.

        Returning says that a crash of any process loses none of them. Of an id given twice the first record counts and
        the others are skipped. Records that were taken by an earlier call are skipped, or taken again if that leaves no
        second row in the end. Of two calls' records with one id one is kept: the first, where the sink stores at once.
        """

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        """Keep a record that was refused, complete, beside the reason. Burying it again changes nothing."""

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of ``ids`` that are known to be taken for good: asked about records that were skipped.

        With no ids it is the writer's probe in an outage: it must reach what ``persist_completed`` reaches, or raise.
        """

    async def check_schema(self) -> None:
        """Raise an ``RwriterError`` with the remedy if records cannot be taken as things stand. Called on start."""

    async def identity(self) -> str:
        """Return a text that tells this destination from any other: a spool is stamped with it."""

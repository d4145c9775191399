"""The SQL of the library: each statement stands beside the code that fills it, and ``RequestStore`` is their face."""

from __future__ import annotations

from rwriter.store._cursor import cursor_after
from rwriter.store._dead_letters import DeadLetter, DeadLetters
from rwriter.store._listing import RequestFilter
from rwriter.store._results import Erasure, PersistResult, Purge, RequestDetail, RequestPage, RequestSummary, detail_of
from rwriter.store._revision import current_revision, encoding_refusal, revision_in_service
from rwriter.store._sizes import TableSize, table_sizes
from rwriter.store._store import ARCHIVE_JOB, RequestStore
from rwriter.store._usage import UsageRow

__all__ = (
    "ARCHIVE_JOB",
    "DeadLetter",
    "DeadLetters",
    "Erasure",
    "PersistResult",
    "Purge",
    "RequestDetail",
    "RequestFilter",
    "RequestPage",
    "RequestStore",
    "RequestSummary",
    "TableSize",
    "UsageRow",
    "current_revision",
    "cursor_after",
    "detail_of",
    "encoding_refusal",
    "revision_in_service",
    "table_sizes",
)

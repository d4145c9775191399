"""One PostgreSQL row for every finished language-model request: off the request path, batched, never lost."""

from __future__ import annotations

from rwriter._keys import use_key_pepper
from rwriter.engines import DbEngines, EngineProvider
from rwriter.errors import (
    ChannelFull,
    DatabaseRefused,
    IdRefused,
    InvalidCursor,
    RecordDropped,
    RecordNotStored,
    RecordRejected,
    RecordSkipped,
    RecordSpooled,
    RequestExists,
    RwriterError,
    SchemaOutdated,
    SpoolFull,
    SpoolUnusable,
    WriterClosed,
    WriterFailed,
    WriterForked,
    WriterNotOpen,
)
from rwriter.records import CompletedRequest, NewRequest, new_request_id
from rwriter.spool import Spool
from rwriter.store import PersistResult, RequestDetail, RequestPage, RequestStore, RequestSummary
from rwriter.store._listing import RequestFilter
from rwriter.writer import Health, RequestsWriter, WriterStats

__all__ = (
    "ChannelFull",
    "CompletedRequest",
    "DatabaseRefused",
    "DbEngines",
    "EngineProvider",
    "Health",
    "IdRefused",
    "InvalidCursor",
    "NewRequest",
    "PersistResult",
    "RecordDropped",
    "RecordNotStored",
    "RecordRejected",
    "RecordSkipped",
    "RecordSpooled",
    "RequestDetail",
    "RequestExists",
    "RequestFilter",
    "RequestPage",
    "RequestStore",
    "RequestSummary",
    "RequestsWriter",
    "RwriterError",
    "SchemaOutdated",
    "Spool",
    "SpoolFull",
    "SpoolUnusable",
    "WriterClosed",
    "WriterFailed",
    "WriterForked",
    "WriterNotOpen",
    "WriterStats",
    "new_request_id",
    "use_key_pepper",
)

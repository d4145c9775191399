"""One PostgreSQL row for every finished language-model request: off the request path, batched, never lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwriter._keys import use_key_pepper
from rwriter.engines import DbEngines, EngineProvider
from rwriter.errors import (
    ChannelFull,
    DatabaseRefused,
    InvalidCursor,
    RecordDropped,
    RecordNotStored,
    RecordRejected,
    RecordSkipped,
    RecordSpooled,
    RequestExists,
    RwriterError,
    SchemaOutdated,
    SinkMisconfigured,
    SinkRefusedRecord,
    SinkUnavailable,
    SpoolFull,
    SpoolUnusable,
    WriterClosed,
    WriterFailed,
    WriterForked,
    WriterNotOpen,
)
from rwriter.records import CompletedRequest, NewRequest, new_request_id
from rwriter.sink import RecordSink
from rwriter.spool import Spool
from rwriter.store import (
    Erasure,
    PersistResult,
    Purge,
    RequestDetail,
    RequestPage,
    RequestStore,
    RequestSummary,
    UsageRow,
)
from rwriter.store._listing import RequestFilter
from rwriter.upkeep import Upkeep
from rwriter.writer import Health, RequestsWriter, WriterStats

if TYPE_CHECKING:
    from rwriter.stream import JetStreamStore, consume

__all__ = (
    "ChannelFull",
    "CompletedRequest",
    "DatabaseRefused",
    "DbEngines",
    "EngineProvider",
    "Erasure",
    "Health",
    "InvalidCursor",
    "JetStreamStore",
    "NewRequest",
    "PersistResult",
    "Purge",
    "RecordDropped",
    "RecordNotStored",
    "RecordRejected",
    "RecordSink",
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
    "SinkMisconfigured",
    "SinkRefusedRecord",
    "SinkUnavailable",
    "Spool",
    "SpoolFull",
    "SpoolUnusable",
    "Upkeep",
    "UsageRow",
    "WriterClosed",
    "WriterFailed",
    "WriterForked",
    "WriterNotOpen",
    "WriterStats",
    "consume",
    "new_request_id",
    "use_key_pepper",
)


def __getattr__(name: str) -> Any:
    if name not in {"JetStreamStore", "consume"}:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    import rwriter.stream  # noqa: PLC0415 -- its extra is for those who have a stream

    return getattr(rwriter.stream, name)

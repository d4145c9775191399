"""One PostgreSQL row for every finished language-model request: off the request path, batched, never lost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rwriter._values.keys import use_key_pepper
    from rwriter.engines import DbEngines, EngineProvider
    from rwriter.errors import (
        ArchiveDamaged,
        ArchiveUnusable,
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
        RequestFilter,
        RequestPage,
        RequestStore,
        RequestSummary,
        UsageRow,
    )
    from rwriter.stream import JetStreamStore, consume
    from rwriter.upkeep import Upkeep
    from rwriter.writer import Health, RequestsWriter, WriterStats

    __version__: str

__all__ = (
    "ArchiveDamaged",
    "ArchiveUnusable",
    "ChannelFull",
    "CompletedRequest",
    "DatabaseRefused",
    "DbEngines",
    "EngineProvider",
    "Erasure",
    "Health",
    "IdRefused",
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

# pytest loads this package in every project beside it, for the plugin: SQLAlchemy and the rest wait for the first name
_ELSEWHERE: Final = {
    "_values.keys": ("use_key_pepper",),
    "engines": ("DbEngines", "EngineProvider"),
    "records": ("CompletedRequest", "NewRequest", "new_request_id"),
    "sink": ("RecordSink",),
    "spool": ("Spool",),
    "store": (
        "Erasure",
        "PersistResult",
        "Purge",
        "RequestDetail",
        "RequestFilter",
        "RequestPage",
        "RequestStore",
        "RequestSummary",
        "UsageRow",
    ),
    "stream": ("JetStreamStore", "consume"),
    "upkeep": ("Upkeep",),
    "writer": ("Health", "RequestsWriter", "WriterStats"),
}
_HOMES: Final = {name: module for module, names in _ELSEWHERE.items() for name in names}
"""The module of each name of ``__all__`` that is no error: those are all in ``errors``."""
_MODULES: Final = ("engines", "errors", "records", "schema", "sink", "spool", "store", "upkeep", "writer")
"""Modules that are there as attributes without an import of their own."""

if not TYPE_CHECKING:  # a checker that saw it would let every misspelt name pass

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"rwriter.{name}")
        if name in __all__:
            found = getattr(importlib.import_module(f"rwriter.{_HOMES.get(name, 'errors')}"), name)
        elif name == "__version__":
            found = importlib.import_module("importlib.metadata").version("rwriter")
        else:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES, "__version__"})

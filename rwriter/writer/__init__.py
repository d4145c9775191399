"""From ``send()`` to the fate of a record: the writer, its buffer, its flushes and the replay of the spool."""

from __future__ import annotations

from rwriter.writer._options import WriterOptions
from rwriter.writer._telemetry import Health, WriterStats
from rwriter.writer._writer import RequestsWriter

__all__ = ("Health", "RequestsWriter", "WriterOptions", "WriterStats")

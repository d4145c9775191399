"""The disk end of an outage: a folder whose records outlive the process and are replayed once."""

from __future__ import annotations

from rwriter.spool._spool import Spool, SpooledRecord, SpoolItem, SpoolStanding

__all__ = ("Spool", "SpoolItem", "SpoolStanding", "SpooledRecord")

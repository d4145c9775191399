"""The checks of ``rwriter doctor``: each finds one kind of fault, and says what to do about it."""

from __future__ import annotations

from rwriter.cli._doctor._examination import examine, unreachable
from rwriter.cli._doctor._findings import Finding

__all__ = ("Finding", "examine", "unreachable")

"""The audit: walks every chain, compares it with the rows, and says what is not explained."""

from __future__ import annotations

from rwriter.ledger._audit._audit import AuditOptions, audit
from rwriter.ledger._audit._findings import Audit, Finding, LedgerHead

__all__ = ("Audit", "AuditOptions", "Finding", "LedgerHead", "audit")

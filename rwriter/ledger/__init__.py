"""The ledger: entries beside the rows, from which it can be shown that nothing is missing and nothing was changed."""

from __future__ import annotations

from rwriter._chain.secret import use_ledger_secret
from rwriter.ledger._audit import Audit, AuditOptions, Finding, LedgerHead, audit
from rwriter.ledger._audit._heads import heads_in
from rwriter.ledger._book import Book, append_entries

__all__ = (
    "Audit",
    "AuditOptions",
    "Book",
    "Finding",
    "LedgerHead",
    "append_entries",
    "audit",
    "heads_in",
    "use_ledger_secret",
)

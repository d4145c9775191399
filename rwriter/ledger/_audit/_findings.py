"""The report of an audit: findings, each with where and how many, and the heads of the chains."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

import msgspec

FindingKind = Literal[
    "missing_entries", "broken_link", "altered_entry", "cut_tail", "unkeyed", "unknown_key", "wrong_account",
    "not_closed", "missing_row", "changed_row", "changed_body", "unrecorded_row", "missing_letter", "still_spooled",
    "dropped",
]  # fmt: skip

MEANINGS: Final[dict[FindingKind, str]] = {
    "missing_entries": "numbers are missing in the chain",
    "broken_link": "entries do not follow the ones before them",
    "altered_entry": "entries were changed after they were written",
    "cut_tail": "entries at the end of the chain are gone",
    "unkeyed": "entries were made without the ledger's secret",
    "unknown_key": "entries were made with another secret: they cannot be checked",
    "wrong_account": "records are in the writer's account and in no entry",
    "not_closed": "records at most may be missing: the writer ended without closing",
    "missing_row": "records have no row, and nothing explains it",
    "changed_row": "rows are not what was stored: status, owner or times",
    "changed_body": "bodies are not what was stored",
    "unrecorded_row": "rows are in no ledger",
    "missing_letter": "dead letters are gone, and nothing explains it",
    "still_spooled": "records went to a spool or a stream and did not come back",
    "dropped": "records were accepted and dropped",
}
"""The number of a finding counts these. The table in the docs is held against this one by a test."""

EXAMPLES: Final = 5
"""Most ids that a finding names."""


class Finding(msgspec.Struct, kw_only=True):
    """One thing that is not explained: ``number`` of them, in the entries ``first`` to ``last`` of ``lane``.

    ``lane`` is ``None`` for rows that no ledger knows. ``detail`` has more words, ``ids`` the first of the records.
    """

    kind: FindingKind
    number: int
    lane: uuid.UUID | None = None
    first: int | None = None
    last: int | None = None
    detail: str = ""
    ids: list[uuid.UUID] = msgspec.field(default_factory=list)

    def __str__(self) -> str:
        where = "" if self.lane is None else f" in {self.lane}"
        if self.first is not None:
            where += f" at {self.first}" + ("" if self.last in {None, self.first} else f" to {self.last}")
        rest = "".join(f"; {part}" for part in (self.detail, ", ".join(map(str, self.ids))) if part)
        return f"{self.kind}: {self.number} {MEANINGS[self.kind]}{where}{rest}"


class LedgerHead(msgspec.Struct, frozen=True):
    """The last entry of a lane. Kept elsewhere, it shows later whether the end of the chain was cut off."""

    lane: uuid.UUID
    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.lane} {self.seq} {self.digest}"


class Audit(msgspec.Struct, kw_only=True):
    """The result of an audit. ``exit_code``: 0 everything is explained, 1 findings, 2 it cannot be told.

    ``running`` are writers that are open, ``removed`` records whose rows an erasure, a purge or an archive explains,
    ``older`` rows that began before there was a ledger.
    """

    entries: int = 0
    records: int = 0
    rows: int = 0
    writers: int = 0
    running: int = 0
    removed: int = 0
    older: int = 0
    since: datetime | None = None
    bodies: bool = False
    findings: list[Finding] = msgspec.field(default_factory=list)
    heads: list[LedgerHead] = msgspec.field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The command's: 0, 1 or 2."""
        if any(finding.kind != "unknown_key" for finding in self.findings):
            return 1
        return 2 if self.findings or not self.entries else 0

    def found(
        self,
        kind: FindingKind,
        lane: uuid.UUID | None = None,
        seq: int | None = None,
        *,
        number: int = 1,
        ids: Iterable[uuid.UUID] = (),
        detail: str = "",
    ) -> None:
        """Add to the finding of that kind in that lane: however much is wrong, the report stays short."""
        finding = next((each for each in self.findings if (each.kind, each.lane) == (kind, lane)), None)
        if finding is None:
            finding = Finding(kind=kind, number=0, lane=lane, first=seq, last=seq, detail=detail)
            self.findings.append(finding)
        finding.number += number
        if seq is not None:
            finding.first = seq if finding.first is None else min(finding.first, seq)
            finding.last = seq if finding.last is None else max(finding.last, seq)
        finding.ids += list(ids)[: EXAMPLES - len(finding.ids)]

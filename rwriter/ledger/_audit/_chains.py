"""Walks the chains: numbers, links, digests, and what a writer's account says about its lanes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from rwriter._chain.entries import REMOVING, START, Entry, Head, Outcome, lane_of, packed
from rwriter._chain.secret import PLAIN, Key
from rwriter.ledger._audit._findings import Audit, LedgerHead

SILENT: Final = 3.0
"""Heartbeats after which a writer that did not close counts as ended."""


_KEPT: Final = {
    "journal": "; its journal has what it had accepted: whoever opens its spool stores it",
    "stream": "; the stream has what it had not stored, and delivers it again",
}
"""Where the records of a writer that was killed are, by how it kept them."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it is in the table."""

    writer_id: uuid.UUID
    seq: int
    kind: str
    ids: list[uuid.UUID]
    number: int
    tags: bytes
    digest: bytes
    previous: bytes
    account: dict[str, Any] | None
    skipped: list[uuid.UUID] | None
    begun: list[uuid.UUID] | None
    at: datetime

    @property
    def outcome(self) -> Outcome:
        """The part of the entry that the next one seals."""
        return Outcome(packed(sorted(self.skipped or ())), packed(sorted(self.begun or ())))

    def is_sealed(self, head: Head, key: Key) -> bool:
        """Return True if the digest is that of an entry behind ``head``."""
        made: Entry = head.followed_by(
            key,
            self.kind,  # type: ignore[arg-type]  # the table's check has the same kinds
            ids=packed(self.ids),
            tags=self.tags,
            account=self.account,
        )
        return made.digest == self.digest


class _Writer:
    """One writer, as its entries have told of it so far."""

    def __init__(self, lane: uuid.UUID, opened: Found | None) -> None:
        self.id: Final = lane
        self.opened: Final = opened
        self.closed = False
        self.last_at: datetime | None = None
        self.account: Mapping[str, Any] = {}
        self.account_seq = 0
        self.last: Final[dict[uuid.UUID, int]] = {}
        self.stored = 0
        self.whole = True

    @property
    def facts(self) -> Mapping[str, Any]:
        """The account of the first entry."""
        return {} if self.opened is None or self.opened.account is None else self.opened.account

    @property
    def is_removal(self) -> bool:
        return self.opened is not None and self.opened.kind in REMOVING


class Chains:
    """Takes the entries in order of lane and number, and adds what is wrong to the report."""

    def __init__(self, report: Audit, keys: Mapping[str, Key], *, has_secret: bool, now: datetime) -> None:
        self._report: Final = report
        self._keys: Final = keys
        self._has_secret: Final = has_secret
        self._now: Final = now
        self._writer: _Writer | None = None
        self.key: Key | None = None
        """The key of the writer whose entries are being taken, or ``None`` where it is not known."""
        self._head: Head | None = None

    def knows(self, lane: uuid.UUID) -> bool:
        """Return True if entries of this lane were taken before."""
        return self._head is not None and self._head.lane == lane

    def begin(self, opened: Found | None, before: Found | None, first: Found) -> None:
        """Begin a lane: ``opened`` is its writer's first entry, ``before`` the one before ``first`` where it is old."""
        writer_id = lane_of(first.writer_id, 0)
        self._end_lane()
        if self._writer is None or self._writer.id != writer_id:
            self._end_writer()
            self._writer = _Writer(writer_id, opened)
            self._choose_key(self._writer)
        self._writer.whole = self._writer.whole and before is None
        if before is not None:
            self._head = Head(first.writer_id, before.seq, before.digest, before.outcome)
        elif first.writer_id == writer_id:
            self._head = Head(first.writer_id)
        else:
            self._head = Head(first.writer_id, digest=START if opened is None else opened.digest)

    def take(self, entry: Found) -> None:
        """Check one entry against the one before it."""
        writer, head = self._writer, self._head
        if writer is None or head is None:
            msg = "begin() comes first"
            raise RuntimeError(msg)
        if entry.seq != head.seq + 1:
            gap = entry.seq - head.seq - 1
            self._report.found("missing_entries", entry.writer_id, entry.seq - 1, number=gap)
        elif entry.previous != head.digest:
            self._report.found("broken_link", entry.writer_id, entry.seq)
        elif self.key is not None and not entry.is_sealed(head, self.key):
            self._report.found("altered_entry", entry.writer_id, entry.seq)
        told = writer.account.get("lanes", {}).get(str(entry.writer_id), [0])
        if told[0] == entry.seq and told[1:] != [entry.digest.hex(), entry.outcome.digest]:
            self._report.found("altered_entry", entry.writer_id, entry.seq, detail="its writer told of it otherwise")
        if entry.number != len(entry.ids) - len(entry.skipped or ()):
            self._report.found("altered_entry", entry.writer_id, entry.seq, detail="its number is not that of its ids")
        self._head = Head(entry.writer_id, entry.seq, entry.digest, entry.outcome)
        self._note(writer, entry)

    def end(self) -> None:
        """Look at the last lane and the last writer."""
        self._end_lane()
        self._end_writer()

    # -- inside

    def _note(self, writer: _Writer, entry: Found) -> None:
        self._report.entries += 1
        writer.last_at = entry.at if writer.last_at is None else max(entry.at, writer.last_at)
        writer.stored += entry.number if entry.kind == ("spooled" if writer.facts.get("hands_on") else "stored") else 0
        if entry.kind in {"heartbeat", "closed"}:
            writer.account, writer.account_seq = entry.account or {}, entry.seq
            writer.closed = entry.kind == "closed"

    def _choose_key(self, writer: _Writer) -> None:
        name = writer.facts.get("key")
        self.key = self._keys.get(str(name))
        if self.key is None:
            self._report.found("unknown_key", writer.id, detail=f"made with {name or 'an unknown key'}")
        elif self.key.id == PLAIN and self._has_secret:
            self._report.found("unkeyed", writer.id)

    def _end_lane(self) -> None:
        if self._head is None or self._writer is None:
            return
        head, self._head = self._head, None
        self._writer.last[head.lane] = head.seq
        self._report.heads.append(LedgerHead(head.lane, head.seq, head.digest.hex()))

    def _end_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._check_lanes(writer)
        if writer.is_removal:
            return
        self._report.writers += 1
        if writer.closed:
            self._check_account(writer)
        else:
            self._check_end(writer)

    def _check_lanes(self, writer: _Writer) -> None:
        for lane, (seq, *_) in writer.account.get("lanes", {}).items():
            last = writer.last.get(uuid.UUID(lane), 0)
            # of an audit since some time, a lane may have had its last entry before
            if last < seq and (writer.whole or last):
                detail = f"the writer's account says {seq}"
                self._report.found("cut_tail", uuid.UUID(lane), last, number=seq - last, detail=detail)

    def _check_account(self, writer: _Writer) -> None:
        missing = int(writer.account.get("persisted", 0)) - writer.stored
        if writer.whole and missing > 0:
            self._report.found("wrong_account", writer.id, writer.account_seq, number=missing)

    def _check_end(self, writer: _Writer) -> None:
        heartbeat = float(writer.facts.get("heartbeat", 0))
        if writer.last_at is None or (self._now - writer.last_at).total_seconds() <= heartbeat * SILENT:
            self._report.running += 1
            return
        kept = _KEPT.get(str(writer.facts.get("durability")), "")
        most = 0 if kept else int(writer.facts.get("capacity", 0))
        heard = f"last heard of at {writer.last_at.isoformat(timespec='seconds')}"
        pending = f", with {writer.account['pending']} pending" if "pending" in writer.account else ""
        last = writer.last.get(writer.id)
        self._report.found("not_closed", writer.id, last, number=most, detail=f"{heard}{pending}{kept}")

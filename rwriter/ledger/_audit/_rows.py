"""Compares the records of stored entries with their rows, a bounded number at a time."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import ARRAY, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter._chain.entries import STORING, TAG_BYTES, bodies_tag, facts_tag
from rwriter._chain.secret import Key
from rwriter.ledger._audit._chains import Found
from rwriter.ledger._audit._findings import Audit, FindingKind
from rwriter.ledger._audit._plans import join_by_hash, join_by_index

CHUNK: Final = 10_000
"""Records that are compared at once."""

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid(), dimensions=1))

_ROWS: Final = """
    SELECT CAST(u.n AS integer) - 1 AS place, r.created_by, r.response_status, r.started_at,
        coalesce(r.completed_at, r.failed_at) AS finished_at{bodies}
    FROM unnest(:ids) WITH ORDINALITY AS u (id, n) JOIN requests r ON r.id = u.id{templates}
"""
_HASHES: Final = """,
        sha256(convert_to(coalesce(t.body, ''), 'UTF8')) AS request,
        sha256(convert_to(coalesce(r.response_body, ''), 'UTF8')) AS response
"""
_TEMPLATES: Final = " LEFT JOIN request_templates t ON t.id = r.template_id"

FACTS_ONLY: Final = text(_ROWS.format(bodies="", templates="")).bindparams(_IDS)
WITH_BODIES: Final = text(_ROWS.format(bodies=_HASHES, templates=_TEMPLATES)).bindparams(_IDS)

# of an id that several entries name, one that took the whole row goes before one that took its bodies
_REMOVED: Final = text(
    """
    SELECT u.id, bool_and(l.only_bodies) AS only_bodies
    FROM unnest(:ids) AS u (id) JOIN (
        SELECT unnest(ids) AS id, coalesce(account ->> 'only' = 'bodies', false) AS only_bodies
        FROM ledger WHERE kind IN ('erased', 'purged', 'archived')
    ) l ON l.id = u.id
    GROUP BY u.id
    """
).bindparams(_IDS)

_RANGES: Final = text(
    """
    SELECT CAST(account ->> 'from' AS uuid) AS first, CAST(account ->> 'below' AS uuid) AS below
    FROM ledger WHERE kind IN ('erased', 'purged', 'archived') AND account ? 'below'
    """
)


class _Told(NamedTuple):
    """A record of an entry: where it is told of, and its tags."""

    id: uuid.UUID
    lane: uuid.UUID
    seq: int
    tags: bytes
    begun: bool
    key: Key | None


class _Doubt(NamedTuple):
    """A record whose row is not as told."""

    told: _Told
    kind: FindingKind


class Rows:
    """Takes entries, and compares their records with the rows once there are enough."""

    def __init__(self, connection: AsyncConnection, report: Audit) -> None:
        self._connection: Final = connection
        self._report: Final = report
        self._waiting: list[_Told] = []
        self._ranges: list[tuple[uuid.UUID, uuid.UUID]] | None = None

    async def take(self, entry: Found, key: Key | None) -> None:
        """Compare the records of ``entry``, now or later."""
        if entry.kind not in STORING:
            return
        skipped, begun = frozenset(entry.skipped or ()), frozenset(entry.begun or ())
        size = 2 * TAG_BYTES
        for at, each in enumerate(entry.ids):
            if each not in skipped:
                tags = entry.tags[at * size : (at + 1) * size]
                self._waiting.append(_Told(each, entry.writer_id, entry.seq, tags, each in begun, key))
        if len(self._waiting) >= CHUNK:
            await self.flush()

    async def flush(self) -> None:
        """Compare what waits."""
        told, self._waiting = self._waiting, []
        if not told:
            return
        self._report.records += len(told)
        query = WITH_BODIES if self._report.bodies else FACTS_ONLY
        found = {row.place: row for row in await self._connection.execute(query, {"ids": [each.id for each in told]})}
        doubts = [doubt for at, each in enumerate(told) if (doubt := self._doubt(each, found.get(at))) is not None]
        if doubts:
            await self._judge(doubts)

    def _doubt(self, told: _Told, row: Any) -> _Doubt | None:
        if row is None:
            return _Doubt(told, "missing_row")
        if told.key is None:
            return None
        if not told.begun and _facts_of(told, told.key, row) != told.tags[:TAG_BYTES]:
            return _Doubt(told, "changed_row")
        if self._report.bodies:
            tag = bodies_tag(told.key, told.id, bytes(row.request), bytes(row.response))
            if tag != told.tags[TAG_BYTES:]:
                return _Doubt(told, "changed_body")
        return None

    async def _judge(self, doubts: list[_Doubt]) -> None:
        """Report the doubts that no removal explains."""
        removed = await self._removed([doubt.told.id for doubt in doubts])
        for told, kind in doubts:
            only_bodies = removed.get(told.id)
            if only_bodies is False or (only_bodies and kind == "changed_body") or await self._is_in_range(told.id):
                self._report.removed += 1
                continue
            detail = "begun before: or it was begun with another request body" if told.begun else ""
            self._report.found(kind, told.lane, told.seq, ids=[told.id], detail=detail)

    async def _removed(self, ids: list[uuid.UUID]) -> Mapping[uuid.UUID, bool]:
        await join_by_hash(self._connection)
        rows = await self._connection.execute(_REMOVED, {"ids": ids})
        await join_by_index(self._connection)
        return {row.id: row.only_bodies for row in rows}

    async def _is_in_range(self, identity: uuid.UUID) -> bool:
        if self._ranges is None:
            self._ranges = [(row.first, row.below) for row in await self._connection.execute(_RANGES)]
        return any(first <= identity < below for first, below in self._ranges)


def _facts_of(told: _Told, key: Key, row: Any) -> bytes:
    times = (row.started_at, row.finished_at)
    if row.response_status is None or any(each is None or each.tzinfo is None for each in times):
        return b""  # the driver reads infinite times as naive ones
    return facts_tag(key, told.id, row.response_status, row.created_by or "", *times)

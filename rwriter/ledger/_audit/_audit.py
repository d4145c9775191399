"""``audit``: in one snapshot of the database, page by page."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypedDict, Unpack

import msgspec
from sqlalchemy import select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter._chain.entries import MOST_LANES, lane_of
from rwriter._chain.secret import PLAIN, current_key, keyed, plain_key
from rwriter._validation import aware
from rwriter.engines import EngineProvider, schema_of
from rwriter.ledger._audit._chains import Chains, Found
from rwriter.ledger._audit._fates import check_fates, check_rows
from rwriter.ledger._audit._findings import Audit, LedgerHead
from rwriter.ledger._audit._plans import join_by_hash, join_by_index
from rwriter.ledger._audit._rows import Rows
from rwriter.schema import ledger
from rwriter.store._connections import Connections

PAGE: Final = 500
"""Entries that are read at once."""

_NIL, _LAST = uuid.UUID(int=0), uuid.UUID(int=(1 << 128) - 1)
_BEGINNING: Final = datetime(1, 1, 2, tzinfo=UTC)

_COLUMNS: Final = tuple(ledger.c[name] for name in Found.__struct_fields__)
_SIZE: Final = text("SELECT coalesce(sum(1 + cardinality(ids)), 0) FROM ledger WHERE at >= :since")

Progress = Callable[[int, int], object]


class AuditOptions(TypedDict, total=False):
    """The options of ``audit``: see there."""

    since: datetime | None
    writer: uuid.UUID | None
    bodies: bool
    heads: Iterable[LedgerHead]
    secrets: Iterable[str | bytes]
    on_progress: Progress | None


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    since: datetime | None = None
    writer: uuid.UUID | None = None
    bodies: bool = False
    heads: Iterable[LedgerHead] = ()
    secrets: Iterable[str | bytes] = ()
    on_progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.since is not None:
            aware("since", self.since)


async def audit(
    engines: EngineProvider | AsyncEngine, *, schema: str | None = None, **options: Unpack[AuditOptions]
) -> Audit:
    """Walk the chains of the ledger, compare them with the rows, and return what is not explained.

    ================  ==================================================================================
    ``since``         looks at entries and rows from that moment on
    ``writer``        looks at one writer's entries alone
    ``bodies``        reads the bodies, too: on the server, which sends their SHA-256
    ``heads``         heads that were kept elsewhere (``heads_in`` reads them)
    ``secrets``       secrets, beside the current one, that entries may have been made with
    ``on_progress``   called with the entries and records done, and with all of them
    ================  ==================================================================================

    It is one transaction that reads, on the primary. Memory is bounded, and nothing is locked. The last two statements
    join every id of the ledger with every row: for tens of millions give engines with a long ``statement_timeout``.
    """
    asked = _Options(**options)
    connections = Connections(engines, schema)
    report = Audit(since=asked.since, bodies=asked.bodies)
    async with connections.write.connect() as plain:
        connection = await plain.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            await _prepare(connection, schema_of(connections.write))
            await _Walk(connection, report, asked).all()
            for head in asked.heads:
                await _check_head(connection, report, head)
    return report


async def _prepare(connection: AsyncConnection, schema: str | None) -> None:
    await connection.execute(text("SET LOCAL work_mem = '64MB'"))
    await connection.execute(text("SET LOCAL statement_timeout = 0"))
    await join_by_index(connection)
    if schema is not None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
        await connection.exec_driver_sql(f"SET LOCAL search_path TO {quoted}")


class _Walk:
    """One audit, over one snapshot."""

    def __init__(self, connection: AsyncConnection, report: Audit, asked: _Options) -> None:
        self._connection: Final = connection
        self._report: Final = report
        self._asked: Final = asked
        self._since: Final = asked.since or _BEGINNING
        writer = asked.writer
        self._bounds: Final = (_NIL, _LAST) if writer is None else (lane_of(writer, 0), lane_of(writer, MOST_LANES))

    async def all(self) -> None:
        """Check chains, rows and fates."""
        now: datetime = (await self._connection.execute(text("SELECT now()"))).scalar_one()
        current = current_key()
        keys = {PLAIN: plain_key(), current.id: current} | {
            key.id: key
            for key in (keyed(each.encode() if isinstance(each, str) else each) for each in self._asked.secrets)
        }
        chains = Chains(self._report, keys, has_secret=current.id != PLAIN, now=now)
        rows = Rows(self._connection, self._report)
        total = (await self._connection.execute(_SIZE, {"since": self._since})).scalar_one()
        done = 0
        async for entry in self._entries():
            if not chains.knows(entry.writer_id):
                await self._begin(chains, entry)
            chains.take(entry)
            await rows.take(entry, chains.key)
            done += 1 + len(entry.ids)
            if self._asked.on_progress is not None:
                self._asked.on_progress(done, int(total))
        chains.end()
        await rows.flush()
        await join_by_hash(self._connection)
        first, last = self._bounds
        await check_fates(self._connection, self._report, {"first": first, "last": last, "since": self._since})
        if self._asked.writer is None and self._report.entries:
            await check_rows(self._connection, self._report, self._since)

    async def _begin(self, chains: Chains, first: Found) -> None:
        own = lane_of(first.writer_id, 0)
        opened = first if (first.writer_id, first.seq) == (own, 1) else await entry_at(self._connection, own, 1)
        # of an audit since some time, entries before it are not walked, and the first that is follows one of them
        before = None
        if first.seq > 1 and self._since > _BEGINNING:
            before = await entry_at(self._connection, first.writer_id, first.seq - 1)
        chains.begin(opened, before, first)

    async def _entries(self) -> AsyncIterator[Found]:
        """Yield the entries in order of lane and number, by key: no cursor is held open."""
        place: tuple[uuid.UUID, int] = (self._bounds[0], 0)
        key = tuple_(ledger.c.writer_id, ledger.c.seq)
        while True:
            query = (
                select(*_COLUMNS)
                .where(key > place, ledger.c.writer_id <= self._bounds[1], ledger.c.at >= self._since)
                .order_by(ledger.c.writer_id, ledger.c.seq)
                .limit(PAGE)
            )
            page = (await self._connection.execute(query)).all()
            for row in page:
                yield _found(row)
            if len(page) < PAGE:
                return
            place = (page[-1].writer_id, page[-1].seq)


async def entry_at(connection: AsyncConnection, lane: uuid.UUID, seq: int) -> Found | None:
    """Return one entry, or ``None`` where there is none."""
    query = select(*_COLUMNS).where(ledger.c.writer_id == lane, ledger.c.seq == seq)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _found(row)


async def _check_head(connection: AsyncConnection, report: Audit, head: LedgerHead) -> None:
    entry = await entry_at(connection, head.lane, head.seq)
    if entry is None:
        last = (
            await connection.execute(
                select(ledger.c.seq).where(ledger.c.writer_id == head.lane).order_by(ledger.c.seq.desc()).limit(1)
            )
        ).scalar_one_or_none() or 0
        number = max(1, head.seq - last)
        report.found("cut_tail", head.lane, last, number=number, detail=f"the head that was kept says {head.seq}")
    elif entry.digest.hex() != head.digest:
        report.found("altered_entry", head.lane, head.seq, detail="its digest is not that of the head that was kept")


def _found(row: Any) -> Found:
    values: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- the public name of a row's mapping
    return Found(**values)

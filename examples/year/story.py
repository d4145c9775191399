"""The year itself: week after week of traffic, and what happens in a year."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import text

from examples.year.book import Book
from examples.year.check import Line, lines, marks_in
from examples.year.earlier import store_as_the_first_release
from examples.year.traffic import OWNERS, POISON, SUBJECT, Calendar, request, week_of
from rwriter import (
    CompletedRequest,
    DbEngines,
    RecordDropped,
    RecordSpooled,
    RequestStore,
    RequestsWriter,
    Spool,
)
from rwriter.migrate import upgrade
from rwriter.partitions import drop, ensure
from rwriter.store import DeadLetters
from rwriter.testing import PostgresServer

ROOMY: Final = 1 << 30
FULL: Final = 512 << 10
"""Bytes that a spool may take: as ever, and on a disk that is as good as full."""

LARGE: Final = 32 << 10
"""Bytes of an answer in the week of the full disk."""

PATIENCE: Final = 120.0
"""Seconds for a spool to be replayed."""

_NO_POISON: Final = text(f"ALTER TABLE requests ADD CONSTRAINT no_typo CHECK (model <> '{POISON}') NOT VALID")
_POISON_AGAIN: Final = text("ALTER TABLE requests DROP CONSTRAINT no_typo")


class Year:
    """A service's year on one database, plain or partitioned by weeks."""

    def __init__(self, server: PostgresServer, url: str, spool: Path, calendar: Calendar, *, weekly: bool) -> None:
        self._server: Final = server
        self._url: Final = url
        self._spool: Final = spool
        self._calendar: Final = calendar
        self._period: Final[Literal["week"] | None] = "week" if weekly else None
        self._book: Final = Book()
        self._engines: Final = DbEngines.from_url(url)
        self._chance: Final = random.Random(7)

    async def run(self) -> list[Line]:
        """Live through the year, and return what must add up."""
        async with self._engines:
            await self._begin_on_the_first_release()
            # a deploy in the middle: the spool of the second one is on a disk that is nearly full
            await self._deploy(self._calendar.migration, self._calendar.full_disk, ROOMY)
            await self._deploy(self._calendar.full_disk, self._calendar.weeks, FULL)
            return await lines(self._book, self._calendar, self._engines.read)

    async def _begin_on_the_first_release(self) -> None:
        await upgrade(self._url, "rwriter_0001", partitioned=self._period)
        if self._period is not None:
            to_come = self._calendar.begin(self._calendar.weeks + 1) - self._calendar.begin(self._calendar.erasure)
            await ensure(self._engines, since=self._calendar.start, ahead=to_come)
        for week in range(self._calendar.migration):
            kept = await store_as_the_first_release(self._engines.write, week_of(self._calendar, week))
            self._book.stored(kept)
        # the second migration, with those rows in the tables
        await upgrade(self._url)

    async def _deploy(self, first: int, end: int, max_bytes: int) -> None:
        async with self._writer(max_bytes) as writer:
            for week in range(first, end):
                await self._week(writer, week)
        self._book.closed(writer.stats)

    @contextlib.asynccontextmanager
    async def _writer(self, max_bytes: int) -> AsyncIterator[RequestsWriter]:
        spool = Spool(self._spool, max_bytes=max_bytes, fsync="off")
        async with RequestsWriter(
            self._engines, spool=spool, max_retries=0, retry_base_delay=0.01, retry_max_delay=0.1, replay_interval=0.1
        ) as writer:
            yield writer
            await writer.flush()

    async def _week(self, writer: RequestsWriter, week: int) -> None:
        calendar = self._calendar
        if week == calendar.outage:
            await self._outage(writer, week)
        elif week == calendar.full_disk:
            await self._full_disk(writer, week)
        else:
            await self._traffic(writer, week_of(calendar, week))
        if week == calendar.erasure - 1:
            await self._typo(writer, week)
            await self._erasure(writer)
        await writer.flush()
        await self._retention(week + 1)

    async def _traffic(self, writer: RequestsWriter, records: list[CompletedRequest]) -> None:
        for record in records:
            await writer.send(record)
        self._book.expected["accepted"] += len(records)
        self._book.stored(records)

    async def _outage(self, writer: RequestsWriter, week: int) -> None:
        await asyncio.to_thread(self._server.stop)
        await self._traffic(writer, week_of(self._calendar, week))
        # everything has gone to the spool, and the writer says so
        await writer.flush()
        if writer.health.state != "spooling":
            raise RuntimeError(f"in an outage the writer is {writer.health.state}")
        await self._recover(writer)

    async def _full_disk(self, writer: RequestsWriter, week: int) -> None:
        await asyncio.to_thread(self._server.stop)
        records, fates = [], list[BaseException | None]()
        for batch in (week_of(self._calendar, week), self._large(week)):
            sent = [writer.send(record, wait="committed") for record in batch]
            records += batch
            fates += await asyncio.gather(*sent, return_exceptions=True)
        lost = [record for record, fate in zip(records, fates, strict=True) if isinstance(fate, RecordDropped)]
        kept = [record for record, fate in zip(records, fates, strict=True) if isinstance(fate, RecordSpooled)]
        if len(lost) + len(kept) != len(records) or not lost or not kept:
            raise RuntimeError(f"of {len(records)} records {len(kept)} were spooled and {len(lost)} dropped")
        self._book.expected.update(accepted=len(records), dropped=len(lost))
        self._book.stored(kept)
        await self._recover(writer)

    def _large(self, week: int) -> list[CompletedRequest]:
        begin = self._calendar.begin(week)
        return [request(self._chance, begin, answer_bytes=LARGE) for _ in range(4 * FULL // LARGE)]

    async def _recover(self, writer: RequestsWriter) -> None:
        await asyncio.to_thread(self._server.restart)
        async with asyncio.timeout(PATIENCE):
            while writer.health.state != "ok" or writer.health.spooled:  # noqa: ASYNC110 -- health has no event
                await asyncio.sleep(0.05)

    async def _typo(self, writer: RequestsWriter, week: int) -> None:
        """Have the database refuse two records of a model, and take them again once the cause is mended."""
        others = request(self._chance, self._calendar.begin(week), model=POISON, created_by=OWNERS[0])
        subjects = request(self._chance, self._calendar.begin(week), model=POISON, created_by=SUBJECT)
        async with self._engines.write.begin() as connection:
            await connection.execute(_NO_POISON)
        # beside a good one, by which the writer knows that the record is to blame
        good = request(self._chance, self._calendar.begin(week))
        await self._traffic(writer, [others, subjects, good])
        await writer.flush()
        self._book.expected["dead"] += 2
        # the subject's letter stays where it is: the erasure finds it there
        letters = {letter.created_by: letter.id for letter in await DeadLetters(self._engines).listing()}
        async with self._engines.write.begin() as connection:
            await connection.execute(_POISON_AGAIN)
        await DeadLetters(self._engines).replay(letters[others.created_by])
        del self._book.rows[subjects.request_id]

    async def _erasure(self, writer: RequestsWriter) -> None:
        """Forget the subject, and see that what comes once more is not stored."""
        again = next(record for record in self._book.rows.values() if record.created_by == SUBJECT)
        erasure = await writer.erase(SUBJECT)
        struck = self._book.erased(SUBJECT)
        if (erasure.requests, erasure.dead_letters) != (struck, 1):
            raise RuntimeError(f"the erasure found {erasure} in place of {struck} rows and a letter")
        self._book.marks_in_spool = await asyncio.to_thread(marks_in, self._spool)
        await writer.send(again)
        self._book.expected.update(accepted=1, skipped=1)

    async def _retention(self, week: int) -> None:
        """Empty bodies, and delete rows or drop their partitions."""
        store, calendar = RequestStore(self._engines), self._calendar
        await store.purge(calendar.bodies_cut(week), bodies_only=True)
        self._book.emptied(calendar.bodies_cut(week))
        if self._period is None:
            await store.purge(calendar.rows_cut(week))
            self._book.purged(calendar.rows_cut(week))
        else:
            self._book.dropped(await drop(self._engines, calendar.rows_cut(week)))

"""``archive_partitions``: closed partitions out of the database and into an archive, one step after the other.

Each partition goes through the same steps, and a crash between any two leaves it in the database or in the archive:

1. its files are written, read back, and compared with a digest that the server computed;
2. its manifest is written: from now on it is in the archive, and in the database too;
3. it is set aside, so that nothing more is written to it, and compared with what it was when it was read;
4. it is dropped, or, where it has changed, attached again and written anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter._validation import aware, between, positive
from rwriter.archive._layout import DEFAULT_CUTS, MOST_CUTS, Manifest
from rwriter.archive._manifests import name_for
from rwriter.archive._place import Place, Workers
from rwriter.archive._progress import Archived, OnProgress, State
from rwriter.archive._source import Facts, Source, table_id
from rwriter.archive._steps import Move, Shelf
from rwriter.engines import EngineProvider
from rwriter.errors import RwriterError
from rwriter.partitions import Partition
from rwriter.partitions._aside import Aside, aside, attach_again, drop_aside
from rwriter.partitions._catalog import Catalog, engine_of, partitions_in, read
from rwriter.partitions._dropping import PATIENCE, turn
from rwriter.schema import PARTITIONED_TABLES, made_at
from rwriter.store import ARCHIVE_JOB, RequestStore

_TRIES: Final = 3
_THREADS: Final = 2


async def archive_partitions(  # noqa: PLR0913 -- the options described below, keyword-only
    engines: EngineProvider | AsyncEngine,
    before: datetime,
    location: str | os.PathLike[str],
    *,
    cuts: int = DEFAULT_CUTS,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    patience: float = PATIENCE,
    schema: str | None = None,
) -> list[Archived]:
    """Move the partitions whose last id was made before ``before`` into an archive, and return their fates.

    ``location`` is a folder or an ``s3://`` URL. A partition is cut by its owners into ``cuts`` files, 1..4096; the
    number stands in its manifest. It is dropped when its files were read back and nothing has changed meanwhile;
    writers and readers go on. What an earlier run left half done is completed first. One with requests in flight is
    kept. ``on_progress`` is called on the loop with each step; ``patience`` is as for ``partitions.drop``.

    Raises ``RwriterError`` where the tables are not partitioned, where another run is at work, and where a partition
    could not be detached; ``ArchiveUnusable`` and ``ArchiveDamaged`` for what is wrong with the archive.
    """
    aware("before", before)
    between("cuts", cuts, 1, MOST_CUTS)
    positive("patience", patience)
    engine, name = engine_of(engines, schema)
    place = Place(location)
    workers = Workers(place.location, _THREADS)
    store = RequestStore(engines, schema=schema)
    run = _Run(Shelf(place, workers), engine, name, on_progress or _nobody, patience)
    try:
        async with store.turn(ARCHIVE_JOB) as is_mine:
            if not is_mine:
                raise RwriterError("another process is archiving this database, or erasing in its archive: wait for it")
            await workers.run(run.shelf.manifests.check, await store.identity(), write=not dry_run)
            before = min(before, datetime.now(UTC))
            return await (run.looked_at(before) if dry_run else run.archived(before, cuts))
    finally:
        workers.close()


def _nobody(_: object) -> None:
    pass


class _Run(NamedTuple):
    """One run: the archive, the database, and who hears of the steps."""

    shelf: Shelf
    engine: AsyncEngine
    schema: str | None
    tell: OnProgress
    patience: float

    async def looked_at(self, before: datetime) -> list[Archived]:
        """Return what a run would do, and change nothing."""
        fates = []
        for partition, source in await self._old(before):
            found = await self._move(partition, source).facts()
            fates.append(_fate(partition, "kept" if found.hindrance else "pending", found, reason=found.hindrance))
        return fates

    async def archived(self, before: datetime, cuts: int) -> list[Archived]:
        """Complete what was cut short, then take one partition after the other."""
        fates = await self._complete()
        for partition, source in await self._old(before):
            fates.append(await self._one(partition, source, cuts))
        return fates

    async def _one(self, partition: Partition, source: Source, cuts: int) -> Archived:
        move = self._move(partition, source)
        move.say("began")
        found = await move.facts()
        for _ in range(_TRIES):
            if found.hindrance:
                move.say("kept")
                return _fate(partition, "kept", found, reason=found.hindrance)
            manifest = await move.write(found, cuts)
            if await move.drop(manifest, self.schema, self.patience):
                return _done(manifest)
            found = await move.facts()
        move.say("kept")
        return _fate(partition, "kept", found, reason="rows of it were written or deleted meanwhile: run it again")

    async def _old(self, before: datetime) -> list[tuple[Partition, Source]]:
        async with self.engine.connect() as connection:
            catalog = await _catalog(connection, self.schema)
        old = [each for each in partitions_in(catalog) if each.end <= before]
        if old and catalog.has_default:
            raise RwriterError("a default partition keeps others from being detached beside writers: detach it first")
        for each in old:
            if each.state != "attached":
                raise RwriterError(f"{' and '.join(each.tables)} is {each.state}: `rwriter check` says what to do")
        return [(each, _source(catalog, each)) for each in old]

    async def _complete(self) -> list[Archived]:
        """Drop or attach again what an earlier run set aside."""
        fates: list[Archived] = []
        async with turn(self.engine), self.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            tables = await aside(connection, self.schema)
            for bounds in sorted({(each.first, each.end) for each in tables}):
                pair = [each for each in tables if (each.first, each.end) == bounds]
                fates += await self._settle(connection, pair)
        return fates

    async def _settle(self, connection: AsyncConnection, pair: Sequence[Aside]) -> list[Archived]:
        names = {each.parent: each for each in pair}
        if set(names) == {"request_templates"}:
            # the requests were dropped before it
            await drop_aside(connection, pair)
            return []
        if set(names) != set(PARTITIONED_TABLES):
            await attach_again(connection, pair)
            return []
        first = names["requests"]
        source = Source.of(first.schema, first.name, names["request_templates"].name)
        start, end = made_at(first.first), made_at(first.end)
        move = self._move(Partition(start=start, end=end, rows=0, size=0, state="attached", tables=()), source)
        table, listed = await table_id(connection, source), await self.shelf.listed()
        manifest = listed.get(name_for(listed, start, end, table))
        if manifest is None or not await self.shelf.is_sound(manifest):
            await attach_again(connection, pair)
            return []
        return [_done(manifest)] if await move.settle(connection, manifest, pair) else []

    def _move(self, partition: Partition, source: Source) -> Move:
        return Move(self.shelf, self.engine, partition, source, self.tell)


async def _catalog(connection: AsyncConnection, schema: str | None) -> Catalog:
    catalog = await read(connection, schema)
    if not catalog.is_partitioned:
        raise RwriterError(
            "an archive takes whole partitions, and the tables are not partitioned: `rwriter purge` deletes what is "
            "old there; `rwriter migrate --partitioned week` makes partitioned tables on a new database"
        )
    return catalog


def _source(catalog: Catalog, partition: Partition) -> Source:
    named = {child.parent: child.name for child in catalog.children if child.name in partition.tables}
    return Source.of(catalog.schemas["requests"], named["requests"], named["request_templates"])


def _fate(partition: Partition, state: State, found: Facts, *, reason: str | None) -> Archived:
    return Archived(
        start=partition.start,
        end=partition.end,
        state=state,
        rows=found.rows,
        left_out=found.left_out,
        reason=reason,
    )


def _done(manifest: Manifest) -> Archived:
    return Archived(
        start=manifest.start,
        end=manifest.end,
        state="archived",
        rows=manifest.rows,
        left_out=manifest.left_out,
        bytes=sum(file.bytes for file in manifest.files),
    )

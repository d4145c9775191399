"""The steps that one partition goes through. Each can be cut short: the next run finds out where, and goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter.archive._layout import FORMAT, CutFile, Manifest, digest_text
from rwriter.archive._manifests import Manifests, name_for
from rwriter.archive._place import Place, Workers
from rwriter.archive._progress import OnProgress, Progress, Step
from rwriter.archive._reading import Cuts, verify
from rwriter.archive._source import Facts, Source, chunks, digest, facts, fingerprint, snapshot, table_id
from rwriter.archive._writing import CutWriter
from rwriter.errors import ArchiveDamaged
from rwriter.partitions import Partition
from rwriter.partitions._aside import Aside, attach_again, drop_aside, set_aside
from rwriter.partitions._dropping import say_dropped, turn
from rwriter.records import new_request_id


class Shelf:
    """The archive as a run sees it: its files, its manifests, and the threads that wait for them."""

    def __init__(self, place: Place, workers: Workers) -> None:
        self.place: Final = place
        self.workers: Final = workers
        self.manifests: Final = Manifests(place)
        self.cuts: Final = Cuts(place)

    async def listed(self) -> dict[str, Manifest]:
        """Return the manifests, each read anew."""
        return await self.workers.run(self.manifests.all, anew=True)

    async def verify(self, manifest: Manifest) -> None:
        """Read the files of a partition back. Raises ``ArchiveDamaged`` if they are not what was written."""
        total = 0
        for file in manifest.files:
            total += await self.workers.run(verify, self.cuts, file)
        if digest_text([total]) != manifest.digest or sum(file.rows for file in manifest.files) != manifest.rows:
            raise ArchiveDamaged(
                f"{self.place.location}: what was read back of {manifest.start:%Y-%m-%d} is not what the database has"
            )

    async def is_sound(self, manifest: Manifest) -> bool:
        """Return True if the files of a partition are what was written."""
        try:
            await self.verify(manifest)
        except ArchiveDamaged:
            return False
        return True


class Move:
    """Moves one partition. ``tell`` hears of each step."""

    def __init__(
        self, shelf: Shelf, engine: AsyncEngine, partition: Partition, source: Source, tell: OnProgress
    ) -> None:
        self._shelf: Final = shelf
        self._engine: Final = engine
        self._partition: Final = partition
        self._source: Final = source
        self._tell: Final = tell

    def say(self, step: Step, rows: int = 0, total: int = 0) -> None:
        """Tell of a step."""
        start, end = self._partition.start, self._partition.end
        self._tell(Progress(step=step, start=start, end=end, rows=rows, total=total))

    async def facts(self) -> Facts:
        """Return the facts of the partition as it is now."""
        async with snapshot(self._engine) as connection:
            return await facts(connection, self._source)

    async def write(self, found: Facts, cuts: int) -> Manifest:
        """Write the partition, unless an earlier run did and nothing has changed since. Returns its manifest."""
        listed = await self._shelf.listed()
        name = name_for(listed, self._partition.start, self._partition.end, found.table)
        earlier = listed.get(name)
        if earlier is not None and earlier.fingerprint == found.fingerprint and await self._shelf.is_sound(earlier):
            return earlier
        # what a run that was cut short left behind
        await self._shelf.workers.run(self._shelf.manifests.remove_strays, [name], listed)
        manifest = await self._written(name, cuts)
        await self._shelf.verify(manifest)
        self.say("verified", manifest.rows, manifest.rows)
        await self._shelf.workers.run(self._shelf.manifests.write, name, manifest)
        self.say("listed", manifest.rows, manifest.rows)
        await self._shelf.workers.run(self._shelf.manifests.remove_strays, [name], {name: manifest})
        return manifest

    async def drop(self, manifest: Manifest, schema: str | None, patience: float) -> bool:
        """Set the partition aside and drop it. Returns False where it has changed: then it is attached again."""
        async with turn(self._engine), self._engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            tables = await set_aside(connection, schema, self._partition, patience)
            self.say("detached", manifest.rows, manifest.rows)
            return await self.settle(connection, manifest, tables)

    async def settle(self, connection: AsyncConnection, manifest: Manifest, tables: Sequence[Aside]) -> bool:
        """Drop the tables that are set aside if they are what the manifest was made of, or attach them again."""
        now = (await table_id(connection, self._source), await fingerprint(connection, self._source))
        if now != (manifest.table, manifest.fingerprint):
            await attach_again(connection, tables)
            return False
        self.say("compared", manifest.rows, manifest.rows)
        await say_dropped(connection, self._partition, "archived")
        await drop_aside(connection, tables)
        self.say("dropped", manifest.rows, manifest.rows)
        return True

    async def _written(self, name: str, cuts: int) -> Manifest:
        run = new_request_id().hex
        async with snapshot(self._engine) as connection:
            found = await facts(connection, self._source)
            files = await self._files(connection, name, run, found.rows, cuts)
            return Manifest(
                format=FORMAT,
                start=self._partition.start,
                end=self._partition.end,
                table=found.table,
                fingerprint=found.fingerprint,
                cuts=cuts,
                rows=found.rows,
                left_out=found.left_out,
                digest=await digest(connection, self._source),
                run=run,
                files=files,
            )

    async def _files(self, connection: AsyncConnection, name: str, run: str, total: int, cuts: int) -> list[CutFile]:
        files: list[CutFile] = []
        writer: CutWriter | None = None
        number, rows = -1, 0
        async with contextlib.AsyncExitStack() as stack:
            stream = await stack.enter_async_context(contextlib.aclosing(chunks(connection, self._source, cuts)))
            async for cut, chunk in stream:
                if writer is None or cut != number:
                    files += await self._finished(writer)
                    writer, number = CutWriter(self._shelf.place, name, cut, run), cut
                    stack.push_async_callback(self._shelf.workers.run, writer.abandon)
                await self._shelf.workers.run(writer.add, chunk)
                rows += len(chunk)
                self.say("written", rows, total)
            files += await self._finished(writer)
        return files

    async def _finished(self, writer: CutWriter | None) -> list[CutFile]:
        return [] if writer is None else [await self._shelf.workers.run(writer.finish)]

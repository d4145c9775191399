"""The writer's own lane: its opening, the fates that leave no row, a heartbeat with its account, and its closing."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from rwriter._chain.entries import Entry, Head, Kind, new_writer_id, packed
from rwriter._chain.secret import current_key
from rwriter._database_errors import describe
from rwriter.ledger import _telemetry as telemetry
from rwriter.ledger._handing import EntrySink, HandingSink
from rwriter.ledger._lanes import Lanes
from rwriter.ledger._noting import E, Noting, Settling
from rwriter.ledger._outbox import Outbox, left_in
from rwriter.ledger._store import LedgerStore
from rwriter.ledger._table import append
from rwriter.sink import RecordSink
from rwriter.store import RequestStore
from rwriter.store._connections import on_living_connection

HEARTBEAT: Final = 60
"""Seconds between two entries with the account of a writer that is open."""

RETRY: Final = 1.0
"""Seconds between two attempts to write entries while the database is away."""

ATTEMPT: Final = 5.0
"""Seconds that one attempt may take."""

TOGETHER: Final = 100
"""Most entries of one transaction."""

log = logging.getLogger("rwriter")


async def append_entries(store: RequestStore, entries: Sequence[Entry]) -> None:
    """Write entries that nobody else could have written otherwise: those that are there already are the same."""
    connections = store._connections  # noqa: SLF001 -- entries go where the rows go
    await on_living_connection(functools.partial(append, connections, entries))


Append: TypeAlias = Callable[[Sequence[Entry]], Awaitable[None]]


def _appending(sink: RequestStore | RecordSink) -> Append:
    """Return the call that takes entries which nobody else could have written otherwise."""
    if isinstance(sink, RequestStore):
        return functools.partial(append_entries, sink)
    if isinstance(sink, EntrySink):
        return sink.append_entries
    msg = f"a ledger needs a RequestStore or a JetStreamStore, and not a {type(sink).__name__}"
    raise ValueError(msg)


class Book:
    """Keeps the ledger of one writer. Nothing is written before ``open``; ``account`` is asked at each heartbeat."""

    def __init__(
        self,
        sink: RequestStore | RecordSink,
        *,
        name: str,
        account: Callable[[], Mapping[str, int]],
        is_up: Callable[[], bool],
        folder: Path | None = None,
        **facts: Any,
    ) -> None:
        self.name: Final = name
        self._sink: Final = sink
        self._append: Final = _appending(sink)
        self._account: Final = account
        self._is_up: Final = is_up
        self._folder: Final = folder
        self._facts: Final = facts
        self._head = Head(new_writer_id())
        self._outbox: Final = Outbox(self._head.lane, folder)
        self._due: Final = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stores: Final[list[LedgerStore]] = []
        self.lanes: Final = Lanes()
        """The lanes of the flushes."""

    @property
    def writer_id(self) -> uuid.UUID:
        """The id under which the writer is in the ledger."""
        return self._head.lane

    @property
    def heads(self) -> list[Head]:
        """The last entry of each lane."""
        return [self._head, *self.lanes.heads]

    def recording(self, kind: Kind) -> RecordSink:
        """Return the sink that writes an entry beside each batch, or notes what was handed on."""
        if isinstance(self._sink, RequestStore):
            self._stores.append(LedgerStore(self._sink, self.lanes, kind))
            return self._stores[-1]
        return HandingSink(self._sink, self.note)

    async def open(self) -> None:
        """Make the first entry and begin to write."""
        self._key = current_key()
        hands_on = {} if isinstance(self._sink, RequestStore) else {"hands_on": True}
        facts = {**self._facts, **hands_on, "name": self.name, "key": self._key.id, "heartbeat": HEARTBEAT}
        self.lanes.begin(self._note("opened", account=facts), self._key)
        telemetry.watch(self)
        if self._is_up():
            await self._write(ATTEMPT)
            for store in self._stores:
                store.build()
        self._task = asyncio.create_task(self._run(), name=f"{self.name}-ledger")

    def noting(self, settling: Settling[E]) -> Noting[E]:
        """Return ``settling`` with a note of each record that is spooled, dropped or set aside."""
        return Noting(settling, self.note)

    def note(self, kind: Kind, ids: Iterable[uuid.UUID]) -> None:
        """Make an entry about records that leave no row now; it is written as soon as the database takes it."""
        ids_packed = packed(sorted(ids))
        if ids_packed and self._task is not None:
            self._note(kind, ids=ids_packed)

    async def close(self, timeout: float) -> None:
        """Make the last entry, with the account, and write it. What the database does not take stays on disk."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait({task})
        self._note("closed", account=self._accounted())
        # in an outage, too: nobody asks later, and it may be over
        await self._write(timeout if self._is_up() else timeout / 2)
        if self._outbox:
            log.error(
                "%s: %d entries of the ledger are not written: %s",
                self.name, len(self._outbox), "left beside the spool" if self._folder else "an audit will miss them",
            )  # fmt: skip
        await self._keep()
        self._outbox.release()
        self._tell_heads()

    def _note(self, kind: Kind, *, ids: bytes = b"", account: Mapping[str, Any] | None = None) -> Entry:
        entry = self._head.followed_by(self._key, kind, ids=ids, account=account)
        self._head = self._head.after(entry)
        self._outbox.put(entry)
        self._due.set()
        return entry

    def _accounted(self) -> dict[str, Any]:
        # with the outcome, which nothing else signs of a last entry
        lanes = {str(head.lane): [head.seq, head.digest.hex(), head.outcome.digest] for head in self.lanes.heads}
        return {**self._account(), "lanes": lanes}

    async def _run(self) -> None:
        await self._write_of_the_dead()
        while True:
            try:
                async with asyncio.timeout(RETRY if self._outbox else HEARTBEAT):
                    await self._due.wait()
            except TimeoutError:
                if not self._outbox and self._is_up():
                    self._note("heartbeat", account=self._accounted())
                    self._tell_heads()
            self._due.clear()
            if self._is_up():
                await self._write(ATTEMPT)
            await self._keep()

    async def _write(self, timeout: float) -> None:
        """Write what waits, in order, for up to ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self._outbox:
                    entries = self._outbox.first(TOGETHER)
                    await self._append(entries)
                    self._outbox.written(len(entries))
        except Exception as exc:  # noqa: BLE001 -- the entries wait; the records are not held up
            log.warning("%s: cannot write to the ledger yet: %s", self.name, describe(exc))

    async def _keep(self) -> None:
        """Put on disk what waits, or remove the file if nothing does."""
        if not self._outbox.has_work:
            return
        try:
            await asyncio.to_thread(self._outbox.keep)
        except OSError as exc:
            log.warning("%s: cannot keep entries of the ledger beside the spool: %s", self.name, describe(exc))

    async def _write_of_the_dead(self) -> None:
        """Write what processes that died have left beside the spool."""
        if self._folder is None:
            return
        for left in await asyncio.to_thread(left_in, self._folder):
            try:
                await self._append(left.entries)
                await asyncio.to_thread(left.remove)
                log.info("%s: wrote %d entries of the ledger that another process left", self.name, len(left.entries))
            except Exception as exc:  # noqa: BLE001 -- the next writer will do
                log.warning("%s: cannot write what is left in %s: %s", self.name, left.path, describe(exc))
            finally:
                left.release()

    def _tell_heads(self) -> None:
        for head in self.heads:
            log.info("%s: ledger head %s %d %s", self.name, head.lane, head.seq, head.digest.hex())

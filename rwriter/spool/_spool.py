"""``Spool``: the disk end of an outage. Rows survive the process; whoever shares the folder replays them once."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from rwriter._validation import at_least, one_of
from rwriter.errors import RwriterError, SpoolUnusable
from rwriter.records import CompletedRequest, client_ids, decode_record, encode_record
from rwriter.spool._file import SpoolFile
from rwriter.spool._owner import ForeignSpool
from rwriter.spool._rows import BETWEEN_IDS, Row, Stored

T = TypeVar("T")

log = logging.getLogger("rwriter")

GIB: Final = 1024 * 1024 * 1024

_SYNCHRONOUS: Final = {"full": "FULL", "normal": "NORMAL", "off": "OFF"}


class SpooledRecord(msgspec.Struct, frozen=True):
    """A record in the spool. ``seq`` is its number there, ``spooled_at`` Unix seconds."""

    seq: int
    record: CompletedRequest
    spooled_at: float


class SpoolItem(msgspec.Struct, frozen=True):
    """A record in a listing of the spool.

    ``size`` is bytes, ``spooled_at`` Unix seconds; ``claimed``: a living process is delivering it; ``reason``: why it
    was set aside, ``None`` if it was not.
    """

    seq: int
    request_id: uuid.UUID
    size: int
    spooled_at: float
    claimed: bool
    reason: str | None


class SpoolStanding(msgspec.Struct, frozen=True, kw_only=True):
    """Tells how full a spool is.

    ``records`` wait to be replayed, by whichever process put them there, and the oldest of them was put there at
    ``oldest_at`` (Unix seconds, ``None`` if none waits); ``set_aside`` are not replayed; ``bytes`` are in use.
    """

    records: int
    set_aside: int
    bytes: int
    oldest_at: float | None

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest record was put there; 0 if none waits."""
        return 0.0 if self.oldest_at is None else max(0.0, time.time() - self.oldest_at)


class Spool:
    """A folder on disk that takes what the database cannot take now. Bounded by bytes; files are for the owner alone.

    ``max_bytes`` bounds the file (default 1 GiB). ``fsync`` says what survives: ``"full"`` a power cut right after a
    write, ``"normal"`` a power cut but for the last writes, ``"off"`` a killed process only. All three survive
    ``kill -9``. The folder may be shared by the processes of one host, not by hosts over a network file system.

    The constructor does no I/O. One ``Spool`` serves one writer of one process.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int = GIB,
        fsync: Literal["full", "normal", "off"] = "full",
        adopt: bool = False,
    ) -> None:
        at_least("max_bytes", max_bytes, 1)
        one_of("fsync", fsync, _SYNCHRONOUS)
        self.directory: Final = Path(directory)
        self._max_bytes: Final = max_bytes
        self._synchronous: Final = _SYNCHRONOUS[fsync]
        self._adopt: Final = adopt
        self.is_stamped: bool = False
        """True once the database that the records are for is known, be it the spool's own or not."""
        self._thread: ThreadPoolExecutor | None = None
        self._file: SpoolFile | None = None
        self._pid = 0
        # records waiting for the next group commit
        self._waiting: list[tuple[CompletedRequest, asyncio.Future[int]]] = []
        # numbers of journaled records whose sender was cancelled meanwhile
        self._abandoned: list[int] = []
        # the same, while their numbers are not known yet
        self._orphaned: set[asyncio.Future[int]] = set()
        self._committing: asyncio.Task[None] | None = None

    async def open(self, *, create: bool = True) -> None:
        """Open the folder, making it if need be and ``create``. Raises ``SpoolUnusable`` where that cannot be done.

        Refused are a folder or file that another user owns or can write to, and a link in its place.
        """
        if self._thread is not None:
            return
        self._pid = os.getpid()
        # SQLite wants one thread, and its waits for the disk are not the event loop's
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rwriter-spool")
        try:
            opening = self._thread.submit(
                SpoolFile, self.directory, max_bytes=self._max_bytes, synchronous=self._synchronous, create=create
            )
            self._file = await asyncio.wrap_future(opening)
            if self._adopt:
                await self._on_thread(lambda file: file.adopt())
        except BaseException:
            self._thread.shutdown(wait=False)
            self._thread = None
            raise

    async def aclose(self) -> None:
        """Release the rows that this process has claimed, and close the file. Idempotent."""
        if self._thread is None:
            return
        await self._abandoned_removed()
        thread, self._thread = self._thread, None
        file, self._file = self._file, None
        if file is not None:
            await asyncio.wrap_future(thread.submit(file.close))
        thread.shutdown(wait=False)

    async def belongs_to(self, identity: str) -> None:
        """Stamp the spool with its database. Raises ``SpoolUnusable`` if it bears another's stamp.

        Then only records for this database are claimed, those put meanwhile among them.
        """
        try:
            await self._on_thread(lambda file: file.belongs_to(identity))
        except ForeignSpool:
            self.is_stamped = True
            raise
        self.is_stamped = True

    async def put(self, records: Sequence[CompletedRequest]) -> None:
        """Keep ``records`` for anyone to replay. Raises ``SpoolFull``, or what the disk raised, and keeps none."""
        rows = [_row(record) for record in records]
        await self._on_thread(lambda file: file.put(rows, keep=False))

    async def journal(self, record: CompletedRequest) -> int:
        """Put ``record`` into the spool, claimed by this process, and return its number once it is on disk.

        Records journaled at the same time share one commit.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        self._start_committing()
        try:
            # shielded, as the number of a row nobody wants any more must be known to take it out again
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self._orphaned.add(done)
            done.add_done_callback(self._abandon)
            raise

    async def claim(self, limit: int, max_bytes: int, *, after: int = 0) -> list[SpooledRecord]:
        """Claim and return the oldest unclaimed records, for this process to replay; ``release`` or ``remove`` them.

        Only records with a number above ``after`` are claimed.
        Rows that cannot be read are set aside with the reason and not returned.
        """
        while rows := await self._on_thread(lambda file: file.claim(limit, max_bytes, after)):
            good, bad = _decode(rows)
            for row, reason in bad:
                await self._on_thread(lambda file, row=row, reason=reason: file.set_aside([row.seq], reason))  # type: ignore[misc]
            if good:
                return good
        return []

    async def release(self, seqs: Iterable[int]) -> None:
        """Give records back for anyone to replay."""
        numbers = list(seqs)
        await self._on_thread(lambda file: file.release(numbers))

    async def remove(self, seqs: Iterable[int]) -> None:
        """Remove records that are in the database."""
        numbers = list(seqs)
        await self._on_thread(lambda file: file.remove(numbers))

    async def set_aside(self, seqs: Iterable[int], reason: str) -> None:
        """Move records that nothing will take to where they are kept and never replayed."""
        numbers = list(seqs)
        await self._on_thread(lambda file: file.set_aside(numbers, reason))

    async def get(self, request_id: uuid.UUID) -> CompletedRequest | None:
        """Return a record in the spool by its request's id."""
        payload = await self._on_thread(lambda file: file.find(request_id.bytes))
        return None if payload is None else decode_record(payload)

    async def find(self, custom_id: str, created_by: str) -> CompletedRequest | None:
        """Return the latest record in the spool that ``created_by``'s client knows as ``custom_id``."""
        for payload in await self._on_thread(lambda file: file.find_custom(custom_id)):
            record = decode_record(payload)
            if record.created_by == created_by and custom_id in client_ids(record):
                return record
        return None

    async def listing(self, limit: int = 1_000) -> list[SpoolItem]:
        """Return the oldest ``limit`` records in the spool, those set aside among them."""
        rows = await self._on_thread(lambda file: file.listing(limit))
        return [SpoolItem(row.seq, uuid.UUID(bytes=row.request_id), *row[2:]) for row in rows]

    async def show(self, seq: int) -> CompletedRequest | None:
        """One record by its number, set aside or not. Raises ``RwriterError`` for one that cannot be read."""
        payload = await self._on_thread(lambda file: file.payload(seq))
        if payload is None:
            return None
        try:
            return decode_record(payload)
        except (msgspec.MsgspecError, ValueError, TypeError) as exc:
            msg = f"record {seq} of the spool cannot be read: {type(exc).__name__}"
            raise RwriterError(msg) from exc

    async def purge(self, before: float, *, set_aside_only: bool = False) -> int:
        """Delete records spooled before ``before`` (Unix seconds) that no process has claimed. Returns how many."""
        return await self._on_thread(lambda file: file.purge(before, set_aside_only=set_aside_only))

    async def forget(self, created_by: str, until: datetime, ids: list[uuid.UUID] | None = None) -> int:
        """Delete the records of an owner that began up to ``until``, in whosever hands. Returns how many.

        Appends the ids of those that can be read to ``ids``.

        The file is rewritten, so that nothing of them can be read from it any more, nor of rows deleted before.
        """
        if not created_by:
            return 0

        # the field as it is written: a short name may be a part of anybody's texts
        field = msgspec.msgpack.encode("created_by") + msgspec.msgpack.encode(created_by)

        def is_theirs(payload: bytes) -> bool:
            try:
                record = decode_record(payload)
            except (msgspec.MsgspecError, ValueError, TypeError):
                return field in payload
            found = record.created_by == created_by and record.started_at <= until
            if found and ids is not None:
                ids.append(record.request_id)
            return found

        return await self._on_thread(lambda file: file.forget(is_theirs))

    async def restore(self) -> int:
        """Let records that were set aside be replayed once more. Returns how many."""
        return await self._on_thread(lambda file: file.restore())

    async def count(self) -> int:
        """Return the number of records in the spool, claimed by a process or not."""
        return await self._on_thread(lambda file: file.count())

    async def standing(self) -> SpoolStanding:
        """Return how full the spool is."""
        number, aside, oldest, size = await self._on_thread(lambda file: file.standing())
        return SpoolStanding(records=number, set_aside=aside, bytes=size, oldest_at=oldest)

    # -- inside

    def _start_committing(self) -> None:
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_groups(), name="rwriter-spool-commit")

    def _abandon(self, done: asyncio.Future[int]) -> None:
        # its send was cancelled, so it was not accepted: claimed by this process it would stay for ever
        self._orphaned.discard(done)
        if not done.cancelled() and done.exception() is None:
            self._abandoned.append(done.result())
            self._start_committing()

    async def _abandoned_removed(self) -> None:
        # given back with the rest, they would be replayed, though nobody was told that they were accepted
        while True:
            if self._committing is not None and not self._committing.done():
                await asyncio.wait({self._committing})
            elif any(done.done() for done in self._orphaned):
                await asyncio.sleep(0)  # its number is told in a later step of the loop than the commit's end
            else:
                return

    async def _remove_abandoned(self) -> None:
        seqs, self._abandoned = self._abandoned, []
        try:
            await self.remove(seqs)
        except Exception as exc:  # noqa: BLE001 -- the file does it before the next claim
            log.warning("cannot remove abandoned records from the spool yet: %s", exc)

    async def _commit_groups(self) -> None:
        while self._waiting or self._abandoned:
            if self._abandoned:
                await self._remove_abandoned()
            group, self._waiting = self._waiting, []
            if not group:
                continue
            rows = [_row(record) for record, _ in group]
            try:
                seqs = await self._on_thread(lambda file, rows=rows: file.put(rows, keep=True))  # type: ignore[misc]
            except Exception as exc:  # noqa: BLE001 -- told to every record of the group
                for _, done in group:
                    if not done.done():
                        done.set_exception(exc)
                continue
            for (_, done), seq in zip(group, seqs, strict=True):
                if not done.done():
                    done.set_result(seq)

    async def _on_thread(self, work: Callable[[SpoolFile], T]) -> T:
        if self._thread is None or self._file is None:
            msg = f"the spool in {self.directory} is not open"
            raise RwriterError(msg)
        if self._pid != os.getpid():
            msg = "the spool was opened before a fork: make the Spool and the writer in the child"
            raise RwriterError(msg)
        # shielded: what was begun is done, though nobody waits for it any more, and before the file is closed
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(_in_place, self._file, work)))


def _in_place(file: SpoolFile, work: Callable[[SpoolFile], T]) -> T:
    try:
        file.stay_in_place()
        return work(file)
    except (sqlite3.Error, OSError) as exc:
        msg = f"cannot use the spool in {file.directory}: {exc}"
        raise SpoolUnusable(msg) from exc


def _row(record: CompletedRequest) -> Row:
    custom_id = BETWEEN_IDS.join(client_ids(record)) or record.custom_id
    return Row(record.request_id.bytes, custom_id, encode_record(record), time.time())


def _decode(rows: Sequence[Stored]) -> tuple[list[SpooledRecord], list[tuple[Stored, str]]]:
    good: list[SpooledRecord] = []
    bad: list[tuple[Stored, str]] = []
    for stored in rows:
        try:
            record = decode_record(stored.row.payload)
        except (msgspec.MsgspecError, ValueError, TypeError) as exc:
            bad.append((stored, f"unreadable: {type(exc).__name__}"))
        else:
            good.append(SpooledRecord(stored.seq, record, stored.row.spooled_at))
    return good, bad

"""``RequestStore``, the face of the package. No queue, no retry: a call is one transaction that happens or raises."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter.engines import EngineProvider
from rwriter.records import CompletedRequest, NewRequest
from rwriter.store import _dead_letters, _detail, _identity, _listing, _realtime, _removal, _revision, _usage
from rwriter.store._connections import Connections, on_living_connection
from rwriter.store._listing import RequestFilter
from rwriter.store._persist import Persist
from rwriter.store._results import Erasure, PersistResult, Purge, RequestDetail, RequestPage, RequestSummary
from rwriter.store._usage import UsageRow

ARCHIVE_JOB: Final = "archive"
"""The ``turn`` that a run of an archive holds, and whoever erases in one."""


class RequestStore:
    """Reads and writes requests, over an engine provider or a plain ``AsyncEngine``.

    ``schema`` names the schema of the tables when that is not the first of the search_path; an engine made with
    ``DbEngines.from_url(schema=...)`` knows already.
    """

    def __init__(self, engines: EngineProvider | AsyncEngine, *, schema: str | None = None) -> None:
        # another store's, where one does a part of this one's work
        self._connections: Final = engines if isinstance(engines, Connections) else Connections(engines, schema)
        self._persist: Final = Persist(self._connections)
        self._rows: Final = _removal.Rows(self._connections)

    async def create_realtime(self, new: NewRequest) -> None:
        """Insert a row in ``processing``, to be finished by ``persist_completed``. Raises ``RequestExists``."""
        await _realtime.create_realtime(self._connections, new)

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        """Store finished requests: all of them in one statement in one transaction, or none.

        New ids are inserted; rows of ``create_realtime`` in flight are finished, also where a daemon's upkeep put them
        back to ``pending``; every other row is left as it is and counted as skipped, so the first terminal state wins
        and a redelivery changes nothing. Of an id given twice the first record counts. A skipped record whose row is
        not finished is logged. Returns the counts and the ids that have their row now.
        """
        batch = list(records)
        # few: the writer tries again by itself, and a record may kill its connection
        return await on_living_connection(lambda: self._persist(batch), most_dead=3)

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of ``ids`` that have a finished row of this library's kind. Asks the primary."""
        wanted = list(ids)
        return await on_living_connection(lambda: self._persist.finished_ids(wanted))

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        """Keep a record that the database refuses in ``dead_letters``, complete, beside the reason.

        Burying the same record again (lost acknowledgement of a commit) changes nothing.
        """
        await on_living_connection(
            lambda: _dead_letters.bury(self._connections, record, sqlstate=sqlstate, error=error)
        )

    async def get_request(
        self, request_id: uuid.UUID, *, body_limit: int | None = None, consistent: bool = False
    ) -> RequestDetail | None:
        """Return one request with its bodies, or ``None``. ``consistent=True`` asks the primary, not the replica.

        With ``body_limit`` both bodies and the error are cut to as many characters by the server, which reads no more
        of them. Raises ``ValueError`` for a negative one.
        """
        return await on_living_connection(
            lambda: _detail.get(self._connections, request_id, body_limit=body_limit, consistent=consistent)
        )

    async def find_request(
        self,
        custom_id: str,
        created_by: str,
        *,
        request_id: uuid.UUID | None = None,
        body_limit: int | None = None,
        consistent: bool = False,
    ) -> RequestDetail | None:
        """Return ``created_by``'s request ``request_id``, else its latest that its client knows as ``custom_id``.

        Of another owner's requests nothing is read, so that their ids cost what unknown ones do. ``body_limit`` is that
        of ``get_request``.
        """
        return await on_living_connection(
            lambda: _detail.find(
                self._connections, custom_id, created_by, request_id, body_limit=body_limit, consistent=consistent
            )
        )

    async def list_requests(self, filter_: RequestFilter | None = None, *, consistent: bool = False) -> RequestPage:
        """Return one page of the rows that match. See ``RequestFilter`` for the order and the bounds."""
        filter_ = filter_ if filter_ is not None else RequestFilter()
        data, next_cursor = await self.list_page(filter_, consistent=consistent)
        total, is_estimate = await on_living_connection(
            lambda: _listing.count(self._connections, filter_, consistent=consistent)
        )
        return RequestPage(data, total, is_estimate, next_cursor)

    async def list_page(
        self, filter_: RequestFilter, *, consistent: bool = False
    ) -> tuple[list[RequestSummary], str | None]:
        """Return ``data`` and ``next_cursor`` of ``list_requests``, without counting how many rows match."""
        return await on_living_connection(lambda: _listing.page(self._connections, filter_, consistent=consistent))

    async def usage(
        self,
        *,
        created_by: str | None = None,
        since: datetime,
        until: datetime,
        by: Sequence[str] = ("day", "model"),
    ) -> list[UsageRow]:
        """Return requests, tokens and times of what began from ``since`` on and before ``until``, a row for each group.

        ``by`` names any of ``day``, ``hour``, ``model``, ``created_by``, ``status`` and ``service_tier``; rows are in
        that order. Days and hours are those of UTC. Without a name there is one row, of everything. Bodies are not
        read. Raises ``ValueError`` for a naive time or an unknown name.
        """
        return await on_living_connection(
            lambda: _usage.usage(self._connections, created_by=created_by, since=since, until=until, by=by)
        )

    async def delete_request(self, request_id: uuid.UUID, created_by: str | None = None) -> bool:
        """Delete a request and its template; with ``created_by`` only if it is that owner's. Returns True if it was.

        A row whose completion may still come (it is in flight, was cancelled or abandoned) is blanked and left as
        ``canceled``, invisible to readers, so that the completion cannot bring the data back.
        """
        return await _removal.delete_request(self._rows, request_id, created_by)

    async def erase(self, created_by: str) -> Erasure:
        """Delete everything of an owner's: requests, their templates and dead letters. Returns how many, and when.

        The owner's mark in ``erasures`` comes first: ``persist_completed`` and ``bury`` skip what the owner began up to
        then, so that nothing comes back from a buffer, a spool, a dead letter or a late completion. Rows in flight are
        blanked as by ``delete_request``. Bounded transactions; rows that another one has locked are tried again for
        two seconds, and then mentioned in the log. A second call returns zeros and moves the mark.
        """
        return await _removal.erase(self._rows, created_by)

    async def purge(
        self,
        before: datetime,
        *,
        bodies_only: bool = False,
        limit: int | None = None,
        budget: timedelta | None = None,
        rest: float = 0.0,
    ) -> Purge:
        """Delete finished requests, their templates and dead letters older than ``before``. Returns how many.

        The oldest requests first, until nothing is left, ``limit`` rows are gone or ``budget`` is used up. Only this
        library's requests and the blanked remains of deletions; rows in flight and the daemon's stay. Each bounded
        transaction goes on where the one before ended, so that it costs the same however much was deleted already, and
        is followed by a pause of ``rest`` times the time it took. Rows that another transaction has locked are left
        to the next call, rows that a foreign key of the service's own protects are blanked.

        With ``bodies_only`` both bodies and the error become empty texts; states, times, sizes, tokens and metadata
        stay. Dead letters are deleted, as a letter is bodies.
        """
        return await _removal.purge(self._rows, before, bodies_only=bodies_only, limit=limit, budget=budget, rest=rest)

    async def purgeable(self, before: datetime, *, bodies_only: bool = False) -> Purge:
        """Return how many requests and dead letters ``purge`` would find now. It counts them, and changes nothing."""
        return await on_living_connection(
            lambda: _removal.purgeable(self._connections, before, bodies_only=bodies_only)
        )

    async def oldest_finished(self) -> datetime | None:
        """Return when the oldest request began that ``purge`` may delete, or ``None`` where there is none."""
        return await on_living_connection(lambda: _removal.oldest_finished(self._connections))

    def turn(self, job: str) -> AbstractAsyncContextManager[bool]:
        """Hold the lock of ``job`` on this database while the block runs; gives False if another process has it.

        It takes a connection of the read pool for as long, or of the write pool where reads go to a replica.
        """
        return self._connections.turn(job)

    async def fail_stale(self, older_than: timedelta) -> int:
        """Fail realtime rows in ``processing`` for longer than ``older_than``: their process died. Returns how many.

        Rows of ``create_realtime`` that a daemon's upkeep put back to ``pending`` are among them.
        They get status 504 and an error envelope of type ``Abandoned``. Bounded transactions; rows that another
        process has locked are left to it.
        """
        return await on_living_connection(lambda: _realtime.fail_stale(self._connections, older_than))

    async def check_schema(self) -> None:
        """Raise ``SchemaOutdated`` unless the database is at this release's revision, or at a later one."""
        await on_living_connection(lambda: _revision.check_schema(self._connections.write))
        self._persist.build(entry=False)

    async def identity(self) -> str:
        """Return a text that tells this database, and the schema of the tables, from any other. Asks the primary."""
        return await on_living_connection(lambda: _identity.identity(self._connections))

    @property
    def engine(self) -> AsyncEngine:
        """The engine that the statements write through, with their schema."""
        return self._connections.write

    @property
    def has_replica(self) -> bool:
        """True where reads go elsewhere than writes, so that a row just written may be missing there."""
        return self._connections.has_replica

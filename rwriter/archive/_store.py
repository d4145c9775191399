"""``ArchiveStore``: what is in an archive, with the calls and the answers of ``RequestStore``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from rwriter._validation import at_least
from rwriter._values.texts import repair
from rwriter.archive import _finding, _listing, _usage
from rwriter.archive._layout import ArchiveErasure, Manifest
from rwriter.archive._manifests import Manifests
from rwriter.archive._place import Place, Workers
from rwriter.archive._reading import Cuts
from rwriter.archive._rewriting import without
from rwriter.errors import ArchiveDamaged
from rwriter.store import RequestDetail, RequestFilter, RequestPage, RequestSummary, UsageRow

P = ParamSpec("P")
T = TypeVar("T")

_TRIES: Final = 4
"""Times that a call is made whose file went while it was read, as its cut was written anew."""


class ArchiveStore:
    """Reads the archive at ``location``, a folder or an ``s3://`` URL, that ``archive_partitions`` writes.

    ``threads`` bounds the calls that wait for files at once. Use it as a context manager, or call ``close``; it needs
    no database. Its calls raise ``ArchiveUnusable`` for what the system or the server says, and ``ArchiveDamaged`` for
    files that are missing or no Parquet.
    """

    def __init__(self, location: str | os.PathLike[str], *, threads: int = 4) -> None:
        at_least("threads", threads, 1)
        place = Place(location)
        self.location: Final = place.location
        self._manifests: Final = Manifests(place)
        self._cuts: Final = Cuts(place)
        self._workers: Final = Workers(place.location, threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its threads. Calls that have begun end by themselves."""
        self._workers.close()

    async def get_request(self, request_id: uuid.UUID, *, created_by: str | None = None) -> RequestDetail | None:
        """Return one request with its bodies, or ``None``.

        The id tells the partition. With ``created_by`` only that owner's cut is looked into, without it the index of
        each of the partition's cuts.
        """
        owner = None if created_by is None else _owner(created_by)
        return await self._read(_finding.by_id, request_id, owner)

    async def find_request(
        self, custom_id: str, created_by: str, *, request_id: uuid.UUID | None = None
    ) -> RequestDetail | None:
        """Return ``created_by``'s request ``request_id``, else its latest that its client knows as ``custom_id``.

        The second looks into an index of each partition, the latest first.
        """
        found = None if request_id is None else await self.get_request(request_id, created_by=created_by)
        return found or await self._read(_finding.by_client_id, repair(custom_id), _owner(created_by))

    async def list_requests(self, filter_: RequestFilter) -> RequestPage:
        """Return one page of an owner's rows that match. ``created_by`` is needed: each owner has a cut of its own.

        Raises ``ValueError`` for a filter without it.
        """
        data, next_cursor = await self.list_page(filter_)
        total = await self._read(_listing.count, filter_, _owner_in(filter_))
        return RequestPage(data, total, total_is_estimate=False, next_cursor=next_cursor)

    async def list_page(self, filter_: RequestFilter) -> tuple[list[RequestSummary], str | None]:
        """Return ``data`` and ``next_cursor`` of ``list_requests``, without counting how many rows match."""
        return await self._read(_listing.page, filter_, _owner_in(filter_))

    async def usage(
        self,
        *,
        created_by: str | None = None,
        since: datetime,
        until: datetime,
        by: Sequence[str] = ("day", "model"),
    ) -> list[UsageRow]:
        """Return requests, tokens and times as ``RequestStore.usage`` does, of what is in the archive.

        It reads narrow columns, and keeps 16 bytes of memory for each request of the window. Percentiles of the archive
        and of the database cannot be put together; counts and sums can.
        """
        _usage.check(since, until, by)
        owner = None if created_by is None else _owner(created_by)
        return await self._read(_usage.usage, owner, since, until, by)

    async def erase(self, created_by: str) -> ArchiveErasure:
        """Write every cut anew that holds an owner's rows, without them. Returns the receipt.

        Call ``RequestStore.erase`` first: its mark keeps the owner's rows out of whatever is archived later. A crash
        leaves each partition with the rows or without, and a second call completes it. No archive run may be at work
        meanwhile: hold ``store.turn("archive")``, and call ``remove_strays`` for what a crash left unnamed, as
        ``rwriter erase OWNER --archive TO`` does.
        """
        owner = _owner(created_by)
        requests = partitions = 0
        for name in await self._workers.run(self._manifests.all, anew=True):
            gone = await self._workers.run(without, self._cuts, self._manifests, name, owner)
            requests, partitions = requests + gone, partitions + bool(gone)
        return ArchiveErasure(requests, partitions, datetime.now(UTC))

    async def remove_strays(self) -> int:
        """Delete files that no manifest names: what a crash left, whoever's rows are in it. Returns how many.

        No archive run may be at work meanwhile, as for ``erase``.
        """
        return await self._workers.run(self._remove_strays)

    def _remove_strays(self) -> int:
        return self._manifests.remove_strays(sorted(self._manifests.folders()), self._manifests.all(anew=True))

    async def _read(
        self, function: Callable[Concatenate[Cuts, Mapping[str, Manifest], P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def work(*, anew: bool) -> T:
            return function(self._cuts, self._manifests.all(anew=anew), *args, **kwargs)

        for attempt in range(_TRIES):
            try:
                return await self._workers.run(work, anew=attempt > 0)
            except FileNotFoundError as exc:
                if attempt == _TRIES - 1:
                    raise ArchiveDamaged(f"a file of the archive {self.location} is missing: {exc}") from exc
        raise AssertionError


def _owner(created_by: str) -> str:
    return repair(created_by).strip()


def _owner_in(filter_: RequestFilter) -> str:
    if filter_.created_by is None:
        raise ValueError(
            "created_by is needed to list an archive: each owner has a cut of its own; sum all up by usage()"
        )
    return repair(filter_.created_by)

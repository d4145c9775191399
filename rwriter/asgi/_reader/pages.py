"""Pages of an owner's requests, of the database and of the archive together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from rwriter.store import RequestFilter, RequestStore, RequestSummary, cursor_after

if TYPE_CHECKING:
    from rwriter.archive import ArchiveStore


class Pages:
    """Lists the database's rows and the archive's in one order. The cursor is the same for both."""

    def __init__(self, store: RequestStore, archive: ArchiveStore | None) -> None:
        self._store: Final = store
        self._archive: Final = archive

    async def page(self, filter_: RequestFilter) -> tuple[list[RequestSummary], str | None]:
        """Return one page and the cursor of the next, as ``RequestStore.list_page`` does."""
        stored, cursor = await self._store.list_page(filter_)
        if self._archive is None:
            return stored, cursor
        # behind a full page of the database only what is newer than its last row belongs to the page
        newer = filter_ if cursor is None else msgspec.structs.replace(filter_, created_after=stored[-1].created_at)
        archived, archived_cursor = await self._archive.list_page(newer)
        # a partition that is just being archived is in both
        rows = list({row.id: row for row in (*archived, *stored)}.values())
        rows.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        page, is_more = rows[: filter_.limit], len(rows) > filter_.limit or cursor or archived_cursor
        return page, cursor_after(page[-1]) if page and is_more else None

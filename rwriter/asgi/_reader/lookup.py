"""Finds a response as soon as the client has it, wherever its record is on its way to the database."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from rwriter._database_errors import describe
from rwriter.asgi._ids import request_id_of
from rwriter.records import NAME_LIMIT, CompletedRequest
from rwriter.schema import ACTIVE_STATES
from rwriter.spool import Spool
from rwriter.store import RequestDetail, RequestStore, detail_of
from rwriter.writer import RequestsWriter

if TYPE_CHECKING:
    from rwriter.archive import ArchiveStore

log = logging.getLogger("rwriter")

SEND_TIMEOUT: Final = 2.0
"""Seconds to wait for a record that is being made, as its owner may still be looked up."""


class Lookup:
    """Finds an owner's request: in the writer's buffer, its spool, the replica, the primary, then the archive."""

    def __init__(
        self, store: RequestStore, writer: RequestsWriter | None = None, archive: ArchiveStore | None = None
    ) -> None:
        self._store: Final = store
        self._writer: Final = writer
        self._archive: Final = archive

    async def find(self, response_id: str, owner: str) -> RequestDetail | None:
        """Return the request with the id ``resp_<uuid>``, or with the id that its upstream gave it.

        Returns ``None`` for a bad, an unknown and a foreign id alike, and asks the database the same for the last two.
        Raises what the database raises.
        """
        if not 0 < len(response_id) <= NAME_LIMIT:
            return None
        request_id = request_id_of(response_id)
        # a call that just ended may not have its owner or custom id yet, so on a miss wait for the records that are
        # still being made, and look again
        before = set() if self._writer is None else self._writer.in_flight.sending()
        found = await self._find(response_id, request_id, owner)
        if found is None and before:
            await asyncio.wait(before, timeout=SEND_TIMEOUT)
            found = await self._find(response_id, request_id, owner)
        return found

    async def _find(self, asked: str, request_id: uuid.UUID | None, owner: str) -> RequestDetail | None:
        record = await self._pending_by_id(request_id, owner)
        if record is not None:
            return detail_of(record)
        # an upstream that runs this gateway too gives ids of the same form: a request's own id goes before those
        pending = await self._pending_by_custom_id(asked, owner)
        if pending is not None and request_id is None:
            return detail_of(pending)
        stored = await self._stored(asked, request_id, owner)
        if stored is None and pending is None:
            return await self._archived(asked, request_id, owner)
        if pending is not None and (stored is None or stored.id != request_id):
            return detail_of(pending)
        return stored

    async def _pending_by_id(self, request_id: uuid.UUID | None, owner: str) -> CompletedRequest | None:
        if self._writer is None or request_id is None:
            return None
        record = self._writer.get(request_id)
        if record is None or record.created_by != owner:
            record = await self._spooled(lambda spool: spool.get(request_id))
        return record if record is not None and record.created_by == owner else None

    async def _pending_by_custom_id(self, custom_id: str, owner: str) -> CompletedRequest | None:
        if self._writer is None:
            return None
        record = self._writer.find(custom_id, owner)
        return record or await self._spooled(lambda spool: spool.find(custom_id, owner))

    async def _spooled(self, search: Callable[[Spool], Awaitable[CompletedRequest | None]]) -> CompletedRequest | None:
        spool = None if self._writer is None else self._writer.spool
        if spool is None:
            return None
        try:
            return await search(spool)
        except Exception as exc:  # noqa: BLE001 -- not open, or a broken disk: the row may be in the database
            log.warning("cannot look into the spool: %s", describe(exc))
            return None

    async def is_archived(self, detail: RequestDetail) -> bool:
        """Return True if the request is in the archive."""
        if self._archive is None:
            return False
        return await self._archive.get_request(detail.id, created_by=detail.created_by) is not None

    async def _archived(self, asked: str, request_id: uuid.UUID | None, owner: str) -> RequestDetail | None:
        if self._archive is None:
            return None
        return await self._archive.find_request(asked, owner, request_id=request_id)

    async def _stored(self, asked: str, request_id: uuid.UUID | None, owner: str) -> RequestDetail | None:
        found = await self._store.find_request(asked, owner, request_id=request_id)
        if self._store.has_replica and (found is None or found.status in ACTIVE_STATES):
            # the replica may lag behind: without the row, or without its end
            return await self._store.find_request(asked, owner, request_id=request_id, consistent=True)
        return found

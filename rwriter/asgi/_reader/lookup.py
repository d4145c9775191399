"""Finds a response as soon as the client has it, wherever its record is on its way to the database."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from rwriter._database_errors import describe
from rwriter.asgi._ids import request_id_of
from rwriter.records import NAME_LIMIT, CompletedRequest
from rwriter.schema import ACTIVE_STATES
from rwriter.spool import Spool
from rwriter.store import RequestDetail, RequestStore, detail_of
from rwriter.writer import RequestsWriter

log = logging.getLogger("rwriter")

SEND_TIMEOUT: Final = 2.0
"""Seconds to wait for a record that is being made, as its owner may still be looked up."""


class Lookup:
    """Finds an owner's request in the writer's buffer, else its spool, else the replica, else the primary."""

    def __init__(self, store: RequestStore, writer: RequestsWriter | None = None) -> None:
        self._store: Final = store
        self._writer: Final = writer

    async def find(self, response_id: str, owner: str) -> RequestDetail | None:
        """Return the request with the id ``resp_<uuid>``, or with the id that its upstream gave it.

        Returns ``None`` for a bad, an unknown and a foreign id alike. Raises what the database raises.
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

    async def _find(self, response_id: str, request_id: uuid.UUID | None, owner: str) -> RequestDetail | None:
        if request_id is not None:
            found = await self._by_id(request_id)
            if found is not None and found.created_by == owner:
                return found
        # an upstream that runs this gateway too gives ids of the same form
        return await self._by_custom_id(response_id, owner)

    async def _by_id(self, request_id: uuid.UUID) -> RequestDetail | None:
        if self._writer is not None:
            record = self._writer.get(request_id) or await self._spooled(lambda spool: spool.get(request_id))
            if record is not None:
                return detail_of(record)
        return await self._stored(lambda consistent: self._store.get_request(request_id, consistent=consistent))

    async def _by_custom_id(self, custom_id: str, owner: str) -> RequestDetail | None:
        if self._writer is not None:
            record = self._writer.find(custom_id, owner)
            record = record or await self._spooled(lambda spool: spool.find(custom_id, owner))
            if record is not None:
                return detail_of(record)
        return await self._stored(lambda consistent: self._store.find_request(custom_id, owner, consistent=consistent))

    async def _spooled(self, search: Callable[[Spool], Awaitable[CompletedRequest | None]]) -> CompletedRequest | None:
        spool = None if self._writer is None else self._writer.spool
        if spool is None:
            return None
        try:
            return await search(spool)
        except Exception as exc:  # noqa: BLE001 -- not open, or a broken disk: the row may be in the database
            log.warning("cannot look into the spool: %s", describe(exc))
            return None

    async def _stored(self, search: Callable[[bool], Awaitable[RequestDetail | None]]) -> RequestDetail | None:
        found = await search(False)  # noqa: FBT003 -- consistent
        if self._store.has_replica and (found is None or found.status in ACTIVE_STATES):
            # the replica may lag behind: without the row, or without its end
            return await search(True)  # noqa: FBT003 -- consistent
        return found

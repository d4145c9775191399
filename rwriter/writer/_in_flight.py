"""Calls that this process has in flight for a writer: background responses, and records not yet handed to it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final


class InFlight:
    """Registry of running tasks by request id. The capture middleware adds to it, the reader routes look things up.

    A task leaves the registry when it is done.
    """

    def __init__(self) -> None:
        self._responses: Final[dict[uuid.UUID, asyncio.Task[None]]] = {}
        self._records: Final[dict[uuid.UUID, asyncio.Task[None]]] = {}

    def add_response(self, request_id: uuid.UUID, task: asyncio.Task[None]) -> None:
        """Register ``task``, which produces that background response."""
        self._responses[request_id] = task
        task.add_done_callback(lambda _: self._responses.pop(request_id, None))

    def cancel_response(self, request_id: uuid.UUID) -> asyncio.Task[None] | None:
        """Cancel the task of that background response and return it; return ``None`` if it does not run here."""
        task = self._responses.get(request_id)
        return task if task is not None and task.cancel() else None

    def add_record(self, request_id: uuid.UUID, task: asyncio.Task[None]) -> None:
        """Register ``task``, which looks up the owner of that record and sends it to the writer."""
        self._records[request_id] = task
        task.add_done_callback(lambda _: self._records.pop(request_id, None))

    def sending(self, request_id: uuid.UUID | None = None) -> set[asyncio.Task[None]]:
        """Return the tasks that send records at this moment: that record's, or all of them."""
        if request_id is None:
            return set(self._records.values())
        task = self._records.get(request_id)
        return set() if task is None else {task}

"""What this process has in hand for a writer: background responses, and records on their way to it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final
from weakref import WeakKeyDictionary

from rwriter.writer import RequestsWriter

_by_writer: WeakKeyDictionary[RequestsWriter, Running] = WeakKeyDictionary()


class Running:
    """Background responses and records not yet sent, by request id."""

    def __init__(self) -> None:
        self._tasks: Final[dict[uuid.UUID, asyncio.Task[None]]] = {}
        self._records: Final[dict[uuid.UUID, asyncio.Task[None]]] = {}

    def add(self, request_id: uuid.UUID, task: asyncio.Task[None]) -> None:
        """Know ``task`` until it is done."""
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    def cancel(self, request_id: uuid.UUID) -> asyncio.Task[None] | None:
        """Cancel the task of that response, and answer with it; ``None`` when it is not running here."""
        task = self._tasks.get(request_id)
        return task if task is not None and task.cancel() else None

    def add_record(self, request_id: uuid.UUID, task: asyncio.Task[None]) -> None:
        """Know ``task``, which finds out whose a record is and sends it, until it is done."""
        self._records[request_id] = task
        task.add_done_callback(lambda _: self._records.pop(request_id, None))

    def on_the_way(self, request_id: uuid.UUID | None = None) -> set[asyncio.Task[None]]:
        """The task that sends that record now, or all such tasks."""
        if request_id is None:
            return set(self._records.values())
        task = self._records.get(request_id)
        return set() if task is None else {task}


def running(writer: RequestsWriter) -> Running:
    """What this process runs for ``writer``: the middleware adds, the cancel route looks up."""
    return _by_writer.setdefault(writer, Running())

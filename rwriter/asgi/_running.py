"""The background responses that this process runs, by the writer that will complete their rows."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final
from weakref import WeakKeyDictionary

from rwriter.writer import RequestsWriter

_by_writer: WeakKeyDictionary[RequestsWriter, Running] = WeakKeyDictionary()


class Running:
    """Tasks by request id."""

    def __init__(self) -> None:
        self._tasks: Final[dict[uuid.UUID, asyncio.Task[None]]] = {}

    def add(self, request_id: uuid.UUID, task: asyncio.Task[None]) -> None:
        """Know ``task`` until it is done."""
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    def cancel(self, request_id: uuid.UUID) -> bool:
        """Cancel the task of that response; whether it was running here."""
        task = self._tasks.get(request_id)
        return task is not None and task.cancel()

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What runs now."""
        return set(self._tasks.values())


def running(writer: RequestsWriter) -> Running:
    """What this process runs for ``writer``: the middleware adds, the cancel route looks up."""
    return _by_writer.setdefault(writer, Running())

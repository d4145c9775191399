"""``SyncRequestStore``: the reads of a ``RequestStore`` for code without an event loop."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from rwriter.store import RequestDetail, RequestFilter, RequestPage, RequestStore, UsageRow

T = TypeVar("T")


class SyncRequestStore:
    """Reads and deletes rows from any thread: ``ThreadedWriter.store``.

    Its statements run on the writer's loop, through the writer's engines; each method waits for its answer and raises
    what that of ``RequestStore`` raises, ``TimeoutError`` after ``timeout`` seconds, and ``WriterClosed`` once the
    writer is closed. A statement has the engine's ``statement_timeout`` anyway.
    """

    def __init__(self, store: RequestStore, run: Callable[[Coroutine[Any, Any, Any], float | None], Any]) -> None:
        self._store: Final = store
        self._on_loop: Final = run

    def get_request(
        self,
        request_id: uuid.UUID,
        *,
        body_limit: int | None = None,
        consistent: bool = False,
        timeout: float | None = None,
    ) -> RequestDetail | None:
        """As ``RequestStore.get_request``."""
        return self._run(self._store.get_request(request_id, body_limit=body_limit, consistent=consistent), timeout)

    def find_request(
        self,
        custom_id: str,
        created_by: str,
        *,
        request_id: uuid.UUID | None = None,
        body_limit: int | None = None,
        consistent: bool = False,
        timeout: float | None = None,
    ) -> RequestDetail | None:
        """As ``RequestStore.find_request``."""
        work = self._store.find_request(
            custom_id, created_by, request_id=request_id, body_limit=body_limit, consistent=consistent
        )
        return self._run(work, timeout)

    def list_requests(
        self, filter_: RequestFilter | None = None, *, consistent: bool = False, timeout: float | None = None
    ) -> RequestPage:
        """As ``RequestStore.list_requests``."""
        return self._run(self._store.list_requests(filter_, consistent=consistent), timeout)

    def usage(
        self,
        *,
        created_by: str | None = None,
        since: datetime,
        until: datetime,
        by: Sequence[str] = ("day", "model"),
        timeout: float | None = None,
    ) -> list[UsageRow]:
        """As ``RequestStore.usage``."""
        return self._run(self._store.usage(created_by=created_by, since=since, until=until, by=by), timeout)

    def delete_request(
        self, request_id: uuid.UUID, created_by: str | None = None, *, timeout: float | None = None
    ) -> bool:
        """As ``RequestStore.delete_request``."""
        return self._run(self._store.delete_request(request_id, created_by), timeout)

    def _run(self, work: Coroutine[Any, Any, T], timeout: float | None) -> T:
        answer: T = self._on_loop(work, timeout)
        return answer

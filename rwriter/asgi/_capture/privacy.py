"""The service's own rules on what may be stored: the ``zdr`` and ``redact`` hooks. If one fails, no body is stored."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import msgspec

from rwriter._database_errors import describe
from rwriter._hooks import resolve
from rwriter._values.traces import named
from rwriter.asgi._types import Scope
from rwriter.records import CompletedRequest, NewRequest

Zdr = Callable[[Scope, str], bool | Awaitable[bool]]
"""``zdr(scope, created_by)``: True if nothing of the bodies may be kept. Async or not.

``scope["state"]["rwriter_store"]`` is what the request says as ``store``, if it does.
"""
Redact = Callable[[CompletedRequest], CompletedRequest | Awaitable[CompletedRequest]]
"""``redact(record)``: returns the record to store in its place. Async or not."""

NOT_ANSWERED_YET: Final = 202
"""Status of the record that ``redact`` is shown of a request whose answer is still to come."""

log = logging.getLogger("rwriter")


class Privacy:
    """Applies the hooks of one middleware."""

    def __init__(self, *, zdr: Zdr | None, redact: Redact | None) -> None:
        self._zdr: Final = zdr
        self._redact: Final = redact

    @property
    def asks(self) -> bool:
        """True if there is a ``zdr`` to ask."""
        return self._zdr is not None

    async def store_no_bodies(self, scope: Scope, created_by: str) -> bool:
        """Ask ``zdr`` about a call. Return True if it says so, or fails."""
        if self._zdr is None:
            return False
        try:
            return bool(await resolve(self._zdr(scope, created_by)))
        except Exception as exc:  # noqa: BLE001 -- the service's own code
            log.error("zdr failed, %s: the call is kept without bodies", describe(exc))
            return True

    async def redacted(self, record: CompletedRequest, *, store_no_bodies: bool) -> CompletedRequest:
        """Return ``record`` as it may be stored."""
        if self._redact is not None and not store_no_bodies:
            try:
                kept = _checked(await resolve(self._redact(record)))
                # a hook that makes a record of its own must not give it the row of another
                return msgspec.structs.replace(kept, request_id=record.request_id)
            except Exception as exc:  # noqa: BLE001 -- the service's own code
                name = named(record.request_id, (record.metadata or {}).get("traceparent"))
                log.error("redact failed, %s: record %s is kept without bodies", describe(exc), name)
            store_no_bodies = True
        return _without_words(record) if store_no_bodies else record

    async def redacted_request(self, request: NewRequest, started_at: datetime, *, store_no_bodies: bool) -> NewRequest:
        """Return ``request``, which has no answer yet, as it may be stored."""
        record = await self.redacted(_for_the_hook(request, started_at), store_no_bodies=store_no_bodies)
        return msgspec.structs.replace(
            request,
            body=record.request_body,
            model=record.model,
            path=record.endpoint,
            api_key=record.api_key,
            created_by=record.created_by,
        )


def _without_words(record: CompletedRequest) -> CompletedRequest:
    """Return ``record`` without anything that the request or the answer said, but for the trace it belongs to."""
    trace = {name: value for name, value in (record.metadata or {}).items() if name == "traceparent"}
    return msgspec.structs.replace(record, request_body="", response_body="", metadata=trace or None)


def _checked(kept: object) -> CompletedRequest:
    if not isinstance(kept, CompletedRequest):
        msg = f"redact must return a CompletedRequest, not {type(kept).__name__}"
        raise TypeError(msg)
    return kept


def _for_the_hook(request: NewRequest, started_at: datetime) -> CompletedRequest:
    """Adapt a request without an answer to what ``redact`` takes by contract. For nothing else."""
    return CompletedRequest(
        request_id=request.request_id,
        status_code=NOT_ANSWERED_YET,
        request_body=request.body,
        response_body="",
        model=request.model,
        endpoint=request.path,
        api_key=request.api_key,
        created_by=request.created_by,
        started_at=started_at,
        completed_at=started_at,
    )

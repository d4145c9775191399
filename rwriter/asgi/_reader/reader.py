"""Does the work of the reader routes, without HTTP: each method returns JSON values or raises a ``Problem``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from rwriter.asgi import _json
from rwriter.asgi._reader.lookup import Lookup
from rwriter.asgi._reader.problems import AWAY, Problem, not_found, unavailable
from rwriter.asgi._reader.query import ascending_in, limit_in, states_in
from rwriter.asgi._render.events import OPENING, Event, closing_events, error_event, frame, numbered, opening_events
from rwriter.asgi._render.input import input_items
from rwriter.asgi._render.response import chat_completion, is_background, page_of, response_object, summary
from rwriter.records import CLIENT_CLOSED_REQUEST, CompletedRequest
from rwriter.schema import ACTIVE_STATES
from rwriter.store import RequestDetail, RequestFilter, RequestStore, cursor_after
from rwriter.writer import RequestsWriter

FIRST_POLL: Final = 0.1
LAST_POLL: Final = 2.0
"""Seconds between two looks at a response that is not finished: doubling, from the first to the last."""

_CANCELLED: Final = {"type": "cancelled", "code": "cancelled", "message": "the response was cancelled by its owner"}
_UNFINISHED: Final = ("queued", "in_progress")


class Reader:
    """Reads, cancels and deletes requests. Every method takes the owner and sees no rows of others."""

    def __init__(
        self, store: RequestStore, writer: RequestsWriter | None, *, settle_timeout: float, stream_timeout: float
    ) -> None:
        self._store: Final = store
        self._writer: Final = writer
        self._lookup: Final = Lookup(store, writer)
        self._settle_timeout: Final = settle_timeout
        self._stream_timeout: Final = stream_timeout

    async def find(self, asked_id: str, owner: str) -> RequestDetail:
        """Return the owner's request with that id."""
        detail = await self._lookup.find(asked_id, owner)
        if detail is None:
            raise not_found()
        return detail

    async def response(self, asked_id: str, owner: str) -> dict[str, Any]:
        """Return the Response object."""
        return response_object(await self.find(asked_id, owner), asked_id)

    async def chat_completion(self, asked_id: str, owner: str) -> dict[str, Any]:
        """Return the chat completion, which exists only once the request has completed."""
        completion = chat_completion(await self.find(asked_id, owner), asked_id)
        if completion is None:
            raise not_found()
        return completion

    async def input_items(self, asked_id: str, owner: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return one page of the request's input items."""
        limit, ascending = limit_in(query), ascending_in(query)
        items = input_items(await self.find(asked_id, owner))
        if not ascending:
            items.reverse()
        start = _index_after(items, query.get("after"))
        page = items[start : start + limit]
        return page_of(page, has_more=len(items) > start + limit)

    async def listing(self, owner: str, query: Mapping[str, str], models: Sequence[str]) -> dict[str, Any]:
        """Return one page of the owner's rows, newest first."""
        limit, states = limit_in(query), states_in(query)
        cursor = await self._cursor(query.get("after"), owner)
        asked = RequestFilter(created_by=owner, models=models or None, cursor=cursor, limit=limit)
        pages = [await self._store.list_page(msgspec.structs.replace(asked, status=state)) for state in states]
        # "queued" stands for two row states, and each has pages of its own
        rows = sorted((row for data, _ in pages for row in data), key=lambda row: (row.created_at, row.id))[::-1]
        has_more = len(rows) > limit or any(cursor is not None for _, cursor in pages)
        return page_of([summary(row) for row in rows[:limit]], has_more=has_more)

    async def delete(self, asked_id: str, owner: str) -> dict[str, Any]:
        """Delete the request, waiting for a record of it that is not stored yet."""
        detail = await self.find(asked_id, owner)
        await self._stop(detail)
        await self._settle(detail)
        await self._store.delete_request(detail.id, created_by=owner)
        return {"id": asked_id, "object": "response", "deleted": True}

    async def cancel(self, asked_id: str, owner: str) -> dict[str, Any]:
        """Cancel a background response and return it. A finished one is returned as it is."""
        detail = await self.find(asked_id, owner)
        if not is_background(detail):
            raise Problem(400, "only a background response can be cancelled", code="not_background")
        if detail.status not in ACTIVE_STATES:
            return response_object(detail, asked_id)
        # end the row before the task, so that the record the task writes of its own end comes second and is skipped
        result = await self._store.persist_completed([_cancellation(detail)])
        if result.inserted:
            # the row was deleted in between and must not come back as a cancelled one
            await self._store.delete_request(detail.id, created_by=owner)
        await self._stop(detail)
        cancelled = await self._store.get_request(detail.id, consistent=True)
        if cancelled is None or cancelled.created_by != owner:
            raise not_found()  # deleted in between
        return response_object(cancelled, asked_id)

    async def replay(self, detail: RequestDetail, asked_id: str, after: int) -> AsyncIterator[bytes]:
        """Yield server-sent events with a sequence number above ``after``, until the response is finished."""
        async for event in self._events(detail, asked_id):
            if event is None:
                yield b": waiting\n\n"
            elif event["sequence_number"] > after:
                yield frame(event)

    # -- inside

    async def _events(self, detail: RequestDetail, asked_id: str) -> AsyncIterator[Event | None]:
        loop = asyncio.get_running_loop()
        deadline, delay, sent = loop.time() + self._stream_timeout, FIRST_POLL, 0
        found: RequestDetail | None = detail
        while found is not None:
            response = response_object(found, asked_id)
            for event in numbered(list(opening_events(response))[sent:], sent):
                yield event
                sent += 1
            if response["status"] not in _UNFINISHED:
                for event in numbered(closing_events(response), OPENING):
                    yield event
                return
            if loop.time() >= deadline:
                break
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_POLL)
            yield None
            found = await self._again(found, asked_id)
        gone = found is None
        error = error_event("not_found", "deleted") if gone else error_event("timeout", "not finished yet, ask again")
        yield error | {"sequence_number": sent}

    async def _again(self, known: RequestDetail, asked_id: str) -> RequestDetail | None:
        try:
            return await self._lookup.find(asked_id, known.created_by)
        except AWAY:
            return known  # the database may be back before the stream's deadline

    async def _cursor(self, after: str | None, owner: str) -> str | None:
        if after is None:
            return None
        row = await self.find(after, owner)
        return cursor_after(row)

    async def _stop(self, detail: RequestDetail) -> None:
        """Cancel the task that runs the response in this process, if there is one, and wait for its end."""
        task = None if self._writer is None else self._writer.in_flight.cancel_response(detail.id)
        if task is not None:
            await asyncio.wait({task}, timeout=self._settle_timeout)

    async def _settle(self, detail: RequestDetail) -> None:
        """Wait until the row's record is stored: one that came later would bring the row back after the deletion."""
        if not await self._is_on_its_way(detail):
            return
        try:
            async with asyncio.timeout(self._settle_timeout):
                await self._flush()
                while await self._is_on_its_way(detail):  # noqa: ASYNC110 -- other processes share the spool, so there is no event to wait for
                    await asyncio.sleep(FIRST_POLL)
        except TimeoutError as exc:
            raise unavailable("the response is not stored yet, try again later") from exc

    async def _flush(self) -> None:
        if self._writer is not None:
            await self._writer.flush()

    async def _is_on_its_way(self, detail: RequestDetail) -> bool:
        if self._writer is None:
            return False
        if self._writer.in_flight.sending(detail.id) or self._writer.get(detail.id) is not None:
            return True
        return self._writer.spool is not None and await self._writer.spool.get(detail.id) is not None


def _cancellation(detail: RequestDetail) -> CompletedRequest:
    now = datetime.now(UTC)
    return CompletedRequest(
        request_id=detail.id,
        status_code=CLIENT_CLOSED_REQUEST,
        response_body=_json.to_text({"error": _CANCELLED}),
        # the row has the request's body already, and if the row was deleted by now, nothing of it must come back
        request_body="",
        model=detail.model,
        endpoint=detail.path,
        api_key="",
        created_by=detail.created_by,
        started_at=detail.started_at or now,
        completed_at=now,
    )


def _index_after(items: list[dict[str, Any]], after: str | None) -> int:
    if after is None:
        return 0
    for index, item in enumerate(items):
        if item["id"] == after:
            return index + 1
    raise not_found()

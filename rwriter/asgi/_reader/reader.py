"""Does the work of the reader routes, without HTTP: each method returns JSON or raises a ``Problem``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import msgspec

from rwriter._database_errors import AWAY
from rwriter.asgi import _json
from rwriter.asgi._reader.lookup import Lookup
from rwriter.asgi._reader.pages import Pages
from rwriter.asgi._reader.problems import Problem, not_found, unavailable
from rwriter.asgi._reader.query import ascending_in, limit_in, states_in
from rwriter.asgi._render.events import Event, closing_events, error_event, frame, numbered, opening_events
from rwriter.asgi._render.input import InputItems
from rwriter.asgi._render.response import (
    chat_completion,
    encoded_response,
    is_background,
    page_of,
    previous_of,
    response_object,
    summary,
)
from rwriter.asgi._threads import Threads
from rwriter.records import CLIENT_CLOSED_REQUEST, CompletedRequest
from rwriter.schema import ACTIVE_STATES
from rwriter.store import RequestDetail, RequestFilter, RequestStore, cursor_after
from rwriter.writer import RequestsWriter

if TYPE_CHECKING:
    from rwriter.archive import ArchiveStore

FIRST_POLL: Final = 0.1
LAST_POLL: Final = 2.0
"""Seconds between two looks at a response that is not finished: doubling, from the first to the last."""

INLINE_BYTES: Final = 2 * 1024
"""Bytes of bodies that are rendered at once: larger ones may hold enough small values to take milliseconds."""

MOST_WAITING: Final = 64
"""Requests of which large bodies are rendered or wait for it. Further ones are told to come again."""

PIECE_BYTES: Final = 64 * 1024
"""Bytes of a stream that are made at a time."""

_CANCELLED: Final = {"type": "cancelled", "code": "cancelled", "message": "the response was cancelled by its owner"}

P = ParamSpec("P")
T = TypeVar("T")


class Reader:
    """Reads, cancels and deletes requests. Every method takes the owner and sees no rows of others."""

    def __init__(
        self,
        store: RequestStore,
        writer: RequestsWriter | None,
        archive: ArchiveStore | None = None,
        *,
        settle_timeout: float,
        stream_timeout: float,
    ) -> None:
        self._store: Final = store
        self._writer: Final = writer
        self._lookup: Final = Lookup(store, writer, archive)
        self._pages: Final = Pages(store, archive)
        self._settle_timeout: Final = settle_timeout
        self._stream_timeout: Final = stream_timeout
        self._threads: Final = Threads("rwriter-reader", INLINE_BYTES)
        self._waiting = 0

    async def find(self, asked_id: str, owner: str) -> RequestDetail:
        """Return the owner's request with that id."""
        detail = await self._lookup.find(asked_id, owner)
        if detail is None:
            raise not_found()
        return detail

    async def response(self, asked_id: str, owner: str) -> bytes:
        """Return the Response object."""
        detail = await self.find(asked_id, owner)
        return await self._rendered(detail, encoded_response, detail, asked_id)

    async def chat_completion(self, asked_id: str, owner: str) -> bytes:
        """Return the chat completion, which exists only once the request has completed."""
        detail = await self.find(asked_id, owner)
        completion = await self._rendered(detail, _encoded_completion, detail, asked_id)
        if completion is None:
            raise not_found()
        return completion

    async def input_items(self, asked_id: str, owner: str, query: Mapping[str, str]) -> bytes:
        """Return one page of the request's input items."""
        limit, ascending = limit_in(query), ascending_in(query)
        detail = await self.find(asked_id, owner)
        page = await self._rendered(detail, _encoded_items, detail, limit, query.get("after"), ascending=ascending)
        if page is None:
            raise not_found()
        return page

    async def listing(self, owner: str, query: Mapping[str, str], models: Sequence[str]) -> bytes:
        """Return one page of the owner's rows, newest first."""
        limit, states = limit_in(query), states_in(query)
        cursor = await self._cursor(query.get("after"), owner)
        asked = RequestFilter(created_by=owner, models=models or None, cursor=cursor, limit=limit)
        pages = [await self._pages.page(msgspec.structs.replace(asked, status=state)) for state in states]
        # "queued" stands for two row states, and each has pages of its own
        rows = sorted((row for data, _ in pages for row in data), key=lambda row: (row.created_at, row.id))[::-1]
        has_more = len(rows) > limit or any(cursor is not None for _, cursor in pages)
        return _json.dumps(page_of([summary(row) for row in rows[:limit]], has_more=has_more))

    async def chain(self, asked_id: str, owner: str, *, limit: int, max_bytes: int) -> list[RequestDetail]:
        """Return the request and those before it by ``previous_response_id``, each looked up with the owner."""
        found: dict[uuid.UUID, RequestDetail] = {}
        previous: str | None = asked_id
        while previous is not None and len(found) < limit:
            detail = await self._lookup.find(previous, owner)
            if detail is None or detail.id in found:
                break
            max_bytes -= _size_of(detail)
            if found and max_bytes < 0:
                break
            found[detail.id] = detail
            previous = await self._threads.run(_size_of(detail), previous_of, detail)
        return list(found.values())

    async def delete(self, asked_id: str, owner: str) -> bytes:
        """Delete the request, waiting for a record of it that is not stored yet."""
        detail = await self.find(asked_id, owner)
        await self._stop(detail)
        await self._settle(detail)
        if not await self._store.delete_request(detail.id, created_by=owner) and await self._lookup.is_archived(detail):
            raise Problem(409, "the response is archived, and goes with everything of its owner's", code="archived")
        return _json.dumps({"id": asked_id, "object": "response", "deleted": True})

    async def cancel(self, asked_id: str, owner: str) -> bytes:
        """Cancel a background response and return it. A finished one is returned as it is."""
        detail = await self.find(asked_id, owner)
        if not await self._rendered(detail, is_background, detail):
            raise Problem(400, "only a background response can be cancelled", code="not_background")
        if detail.status not in ACTIVE_STATES:
            return await self._rendered(detail, encoded_response, detail, asked_id)
        # end the row before the task, so that the record the task writes of its own end comes second and is skipped
        result = await self._store.persist_completed([_cancellation(detail)])
        if result.inserted:
            # the row was deleted in between and must not come back as a cancelled one
            await self._store.delete_request(detail.id, created_by=owner)
        await self._stop(detail)
        cancelled = await self._store.get_request(detail.id, consistent=True)
        if cancelled is None or cancelled.created_by != owner:
            raise not_found()  # deleted in between
        return await self._rendered(cancelled, encoded_response, cancelled, asked_id)

    async def replay(self, detail: RequestDetail, asked_id: str, after: int) -> AsyncIterator[bytes]:
        """Return the server-sent events with a sequence number above ``after``, until the response is finished."""
        # rendered before the answer begins, so that a refusal is an answer of its own
        return self._replay(detail, asked_id, after, await self._rendered(detail, response_object, detail, asked_id))

    # -- inside

    async def _replay(
        self, detail: RequestDetail, asked_id: str, after: int, response: dict[str, Any]
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        deadline, delay, sent = loop.time() + self._stream_timeout, FIRST_POLL, 0
        found: RequestDetail | None = detail
        shown = detail.status
        while found is not None:
            # what waits is looked at often, and rendered anew only when its state changes
            if found.status != shown:
                response = await self._threads.run(_size_of(found), response_object, found, asked_id)
                shown = found.status
            opening = list(opening_events(response))
            for piece in _frames(numbered(opening[sent:], sent), after):
                yield piece
            sent = max(sent, len(opening))
            if shown not in ACTIVE_STATES:
                async for piece in self._in_pieces(found, _frames(numbered(closing_events(response), sent), after)):
                    yield piece
                return
            if loop.time() >= deadline:
                break
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_POLL)
            yield b": waiting\n\n"
            found = await self._again(found, asked_id)
        gone = found is None
        error = error_event("not_found", "deleted") if gone else error_event("timeout", "not finished yet, ask again")
        yield frame(error | {"sequence_number": sent})

    async def _rendered(self, detail: RequestDetail, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function``, which reads the bodies of ``detail``, on a thread if they are large."""
        size = _size_of(detail)
        if size > INLINE_BYTES and self._waiting >= MOST_WAITING:
            raise unavailable("too many large responses are being read, try again later")
        self._waiting += 1
        try:
            return await self._threads.run(size, function, *args, **kwargs)
        finally:
            self._waiting -= 1

    async def _in_pieces(self, detail: RequestDetail, frames: Iterator[bytes]) -> AsyncIterator[bytes]:
        """Yield ``frames`` joined to pieces, and give way to the loop between any two."""
        size = _size_of(detail)
        while made := await self._threads.run(size, _next_piece, frames):
            for start in range(0, len(made), PIECE_BYTES):
                yield made[start : start + PIECE_BYTES]
                await asyncio.sleep(0)

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


def _size_of(detail: RequestDetail) -> int:
    return len(detail.body) + len(detail.response_body or "") + len(detail.error or "")


def _encoded_completion(detail: RequestDetail, asked_id: str) -> bytes | None:
    completion = chat_completion(detail, asked_id)
    return None if completion is None else _json.dumps(completion)


def _encoded_items(detail: RequestDetail, limit: int, after: str | None, *, ascending: bool) -> bytes | None:
    found = InputItems(detail).page(limit=limit, ascending=ascending, after=after)
    return None if found is None else _json.dumps(page_of(found[0], has_more=found[1]))


def _frames(events: Iterator[Event], after: int) -> Iterator[bytes]:
    return (frame(event) for event in events if event["sequence_number"] > after)


def _next_piece(frames: Iterator[bytes]) -> bytes:
    made = bytearray()
    for piece in frames:
        made += piece
        if len(made) >= PIECE_BYTES:
            break
    return bytes(made)

"""From a call that has ended to a record in the writer: whose it is, what may be kept of it, and what is counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from opentelemetry import metrics

from rwriter._database_errors import backoff, describe
from rwriter._hooks import is_worth_logging, resolve
from rwriter.asgi._attribution import Attribution, api_key_of
from rwriter.asgi._capture.call import Call, Owner, Result
from rwriter.asgi._ids import response_id
from rwriter.asgi._json import peek
from rwriter.asgi._types import Scope
from rwriter.errors import WriterClosed, WriterNotOpen
from rwriter.records import NAME_LIMIT, CompletedRequest
from rwriter.writer import RequestsWriter
from rwriter.writer._writer import checked

Zdr = Callable[[Scope, str], bool | Awaitable[bool]]
"""``zdr(scope, created_by)``: whether nothing of the bodies may be kept. Async or not."""
Redact = Callable[[CompletedRequest], CompletedRequest | Awaitable[CompletedRequest]]
"""``redact(record)``: the record to keep in its place. Async or not."""

UNKNOWN_MODEL: Final = "unknown"
INLINE_BYTES: Final = 256 * 1024
"""Bodies larger than this are decoded on a thread, as the event loop would stand still for milliseconds."""
RETRY_BASE_DELAY: Final = 0.1
RETRY_MAX_DELAY: Final = 10.0

log = logging.getLogger("rwriter")

_captures = metrics.get_meter("rwriter").create_counter(
    "rwriter.captures", unit="{request}", description="Tracked requests by what became of them."
)


class CaptureStats(msgspec.Struct, frozen=True, kw_only=True):
    """The middleware's account: ``tracked == recorded + running + pending + sum(dropped.values())``.

    ``running`` calls have not ended; ``pending`` ones wait for their owner to be looked up or for room in the writer;
    ``recorded`` were accepted by the writer. ``dropped`` counts by reason: ``missing_api_key``, ``unknown_api_key``,
    ``attribution_failed`` (``attribute`` raised until the time for it was up), ``overloaded`` (too many pending),
    ``writer_closed``, ``shutdown`` (the drain deadline passed), ``error``.
    """

    tracked: int
    recorded: int
    running: int
    pending: int
    dropped: dict[str, int]


class Dropped(Exception):
    """This call has no record; ``reason`` is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Recorder:
    """Sends the record of each call that ends, in a task of its own: the client has its last byte by then."""

    def __init__(
        self,
        writer: RequestsWriter,
        attribution: Attribution,
        *,
        zdr: Zdr | None,
        redact: Redact | None,
        attribution_timeout: float,
        max_pending_bytes: int,
    ) -> None:
        self.attribution: Final = attribution
        self._writer: Final = writer
        self._zdr: Final = zdr
        self._redact: Final = redact
        self._attribution_timeout: Final = attribution_timeout
        self._max_pending_bytes: Final = max_pending_bytes
        self._pending_bytes = 0
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._tracked = 0
        self._running = 0
        self._recorded = 0
        self._dropped: Final[Counter[str]] = Counter()

    @property
    def stats(self) -> CaptureStats:
        """The account now."""
        return CaptureStats(
            tracked=self._tracked,
            recorded=self._recorded,
            running=self._running,
            pending=len(self._tasks),
            dropped=dict(self._dropped),
        )

    def begun(self) -> None:
        """A tracked call begins."""
        self._tracked += 1
        self._running += 1

    def ended(self, call: Call) -> None:
        """A tracked call has ended."""
        self._running -= 1
        size = call.held_bytes
        # a row that waits for its end must not be left without one
        if call.owner is None and self._tasks and self._pending_bytes + size > self._max_pending_bytes:
            self._drop("overloaded")
            return
        self._pending_bytes += size
        task = asyncio.create_task(self._record(call), name="rwriter-capture")
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._settle(task, size))
        self._writer.in_flight.add_record(call.request_id, task)

    async def drain(self, deadline: float) -> None:
        """Wait until ``deadline`` (of the loop's clock) for what is pending, and count what is left as dropped."""
        loop = asyncio.get_running_loop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, deadline - loop.time()))
        left = list(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def owner(self, scope: Scope) -> Owner:
        """Whose call it is. Raises ``Dropped`` when it is nobody's, and what ``attribute`` raises."""
        created_by = await self.attribution.owner(scope)
        if created_by is None:
            raise Dropped("missing_api_key" if api_key_of(scope) is None else "unknown_api_key")
        return Owner(created_by, await self._is_blank(scope, created_by))

    async def redacted(self, record: CompletedRequest, *, blank: bool) -> CompletedRequest:
        """What may be kept of ``record``. Where the hook fails that is nothing of its bodies."""
        if self._redact is not None and not blank:
            try:
                kept = await resolve(self._redact(record))
                # a hook that mints its own record must not give it another's row, nor one that is none
                return msgspec.structs.replace(checked(kept), request_id=record.request_id)
            except Exception as exc:  # noqa: BLE001 -- the service's own code
                log.error("redact failed, %s: record %s is kept without bodies", describe(exc), record.request_id)
                blank = True
        return msgspec.structs.replace(record, request_body="", response_body="") if blank else record

    # -- inside

    def _settle(self, task: asyncio.Task[None], size: int) -> None:
        self._tasks.discard(task)
        self._pending_bytes -= size
        if task.cancelled():
            self._drop("shutdown")
        elif (exc := task.exception()) is None:
            self._recorded += 1
            _captures.add(1, {"outcome": "recorded"})
        elif isinstance(exc, Dropped):
            self._drop(exc.reason)
        elif isinstance(exc, WriterClosed | WriterNotOpen):
            self._drop("writer_closed")
        else:
            log.error("cannot record a call: %s", describe(exc))
            self._drop("error")

    def _drop(self, reason: str) -> None:
        self._dropped[reason] += 1
        _captures.add(1, {"outcome": reason})
        number = self._dropped[reason]
        if is_worth_logging(number):
            log.warning("%d calls without a record so far: %s", number, reason)

    async def _record(self, call: Call) -> None:
        owner = call.owner or await self._owner_at_last(call.scope)
        result = await asyncio.to_thread(call.result) if call.held_bytes > INLINE_BYTES else call.result()
        record = await self.redacted(_record_of(call, result, owner.created_by), blank=owner.blank)
        await self._writer.send(record)

    async def _owner_at_last(self, scope: Scope) -> Owner:
        """Ask again while ``attribute`` raises: a lookup that failed is not an unknown key."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._attribution_timeout
        attempt = 0
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self.owner(scope)
            except Dropped:
                raise
            except Exception as exc:
                delay = backoff(attempt, base=RETRY_BASE_DELAY, maximum=RETRY_MAX_DELAY)
                if loop.time() + delay >= deadline:
                    log.error("attribute failed for %g s, at last %s", self._attribution_timeout, describe(exc))
                    raise Dropped("attribution_failed") from exc
            await asyncio.sleep(delay)
            attempt += 1

    async def _is_blank(self, scope: Scope, created_by: str) -> bool:
        if self._zdr is None:
            return False
        try:
            return bool(await resolve(self._zdr(scope, created_by)))
        except Exception as exc:  # noqa: BLE001 -- the service's own code
            log.error("zdr failed, %s: the call is kept without bodies", describe(exc))
            return True


class _Named(msgspec.Struct):
    """What a row takes from a JSON body."""

    id: Any = None
    model: Any = None


def model_of(*texts: str) -> str:
    """The ``model`` of the first of these JSON objects that names one."""
    models = (peek(text, _Named).model for text in texts)
    return next((model for model in models if isinstance(model, str) and model), UNKNOWN_MODEL)


def _record_of(call: Call, result: Result, created_by: str) -> CompletedRequest:
    return CompletedRequest(
        request_id=call.request_id,
        status_code=result.status,
        request_body=result.request_body,
        response_body=result.response_body,
        model=model_of(result.request_body, result.response_body),
        endpoint=call.path,
        api_key=api_key_of(call.scope) or "",
        created_by=created_by,
        started_at=call.started_at,
        completed_at=call.completed_at,
        custom_id=_custom_id(result.response_body, call),
    )


def _custom_id(text: str, call: Call) -> str | None:
    """The id that the app's answer has, where it is not our own."""
    answered = peek(text, _Named).id
    if not isinstance(answered, str) or not 0 < len(answered) <= NAME_LIMIT:
        return None
    return None if answered == response_id(call.request_id) else answered

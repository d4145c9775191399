"""Turns each call that has ended into a record in the writer: finds its owner, applies the hooks and keeps count."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from typing import Final

import msgspec
from opentelemetry import metrics

from rwriter._database_errors import backoff, describe
from rwriter._hooks import is_worth_logging
from rwriter.asgi._attribution import Attribution, api_key_of
from rwriter.asgi._capture.budget import CALL_BYTES, Budget, Share, weight_of
from rwriter.asgi._capture.call import CapturedCall, Owner
from rwriter.asgi._capture.genai import GenAiMetrics
from rwriter.asgi._capture.privacy import Privacy
from rwriter.asgi._threads import Threads
from rwriter.asgi._types import Scope
from rwriter.errors import WriterClosed, WriterNotOpen
from rwriter.records import CompletedRequest
from rwriter.writer import RequestsWriter

STORE_STATE: Final = "rwriter_store"
"""Key in ``scope["state"]`` under which ``zdr`` finds what the request says as ``store``."""
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
    ``attribution_failed`` (``attribute`` raised until the time for it was up), ``overloaded`` (no memory left for it),
    ``redirected`` (the app sent the client elsewhere),
    ``writer_closed``, ``shutdown`` (the drain deadline passed), ``error``.
    """

    tracked: int
    recorded: int
    running: int
    pending: int
    dropped: dict[str, int]


class Dropped(Exception):
    """Raised for a call that gets no record; ``reason`` is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Recorder:
    """Sends the record of each call that ends, in a task of its own: by then the client has its last byte."""

    def __init__(
        self,
        writer: RequestsWriter,
        attribution: Attribution,
        privacy: Privacy,
        *,
        attribution_timeout: float,
        max_pending_bytes: int,
        gen_ai: GenAiMetrics | None = None,
    ) -> None:
        self._gen_ai: Final = gen_ai
        self.privacy: Final = privacy
        self._attribution: Final = attribution
        self._writer: Final = writer
        self._attribution_timeout: Final = attribution_timeout
        self.threads: Final = Threads()
        self._budget: Final = Budget(max_pending_bytes)
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._tracked = 0
        self._running = 0
        self._recorded = 0
        self._dropped: Final[Counter[str]] = Counter()

    @property
    def stats(self) -> CaptureStats:
        """The account, exact at this instant."""
        return CaptureStats(
            tracked=self._tracked,
            recorded=self._recorded,
            running=self._running,
            pending=len(self._tasks),
            dropped=dict(self._dropped),
        )

    def admit(self, scope: Scope) -> Share | None:
        """Count a tracked call that begins. Return its share of the memory; ``None`` if there is no room for it."""
        self._tracked += 1
        size = CALL_BYTES + weight_of(scope["headers"]) + len(scope["path"]) + len(scope.get("query_string", b""))
        if not self._budget.take(size):
            self._drop("overloaded")
            return None
        self._running += 1
        return Share(self._budget, size)

    def on_end(self, call: CapturedCall, size: int) -> None:
        """Start to record a call that has ended; without its bodies it holds ``size`` bytes."""
        self._running -= 1
        # a background call has a row in `processing`, which must be completed whatever the answer
        if call.owner is None and call.is_redirected:
            call.share.settle(0)
            self._drop("redirected")
            return
        call.share.settle(size + call.held_bytes)
        share = call.share
        task = asyncio.create_task(self._record(call), name="rwriter-capture")
        self._tasks.add(task)
        request_id = call.request_id
        task.add_done_callback(lambda task: self._settle(task, share, request_id))
        self._writer.in_flight.add_record(request_id, task)

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every call that has ended is in the writer or dropped. Return False after ``timeout``."""
        pending = set(self._tasks)
        return not pending or not (await asyncio.wait(pending, timeout=timeout))[1]

    async def drain(self, deadline: float) -> None:
        """Wait for the pending calls until ``deadline`` (of the loop's clock), then count the rest as dropped."""
        loop = asyncio.get_running_loop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, deadline - loop.time()))
        left = list(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        self.threads.close()

    async def is_known(self, scope: Scope, timeout: float) -> bool:
        """Look up, before the app runs, whether a call has an owner. Raises what ``attribute`` raises."""
        return await self._attribution.find(scope, timeout) is not None

    async def owner(self, scope: Scope) -> Owner:
        """Look up the owner of a call. Raises ``Dropped`` if it has none, and what ``attribute`` raises."""
        found = await self._attribution.find(scope)
        if found is None:
            raise Dropped("missing_api_key" if api_key_of(scope) is None else "unknown_api_key")
        hidden = await self.privacy.store_no_bodies(scope, found.created_by)
        return Owner(found.created_by, found.api_key, hidden)

    # -- inside

    async def _record(self, call: CapturedCall) -> None:
        if call.owner is None and self.privacy.asks:
            await self.tell_store(call)
        owner = call.owner or await self._owner_with_retries(call)
        record = await self._made(call, owner)
        # while the writer has no room the record alone is held
        call.share.settle(CALL_BYTES + record.text_bytes)
        answered_model = call.answered_model
        del call
        kept = await self.privacy.redacted(record, store_no_bodies=owner.store_no_bodies)
        await self._writer.send(kept)
        if self._gen_ai is not None:
            # after it is sent: an exporter that raises costs no row. A hook that hides the model hides it here, too
            self._gen_ai.observe(kept, answered_model if kept.model == record.model else None)

    async def tell_store(self, call: CapturedCall) -> None:
        """Tell ``zdr``, in the scope's state, what the request says as ``store``."""
        asked = await self.threads.run(call.request_work, call.asked)
        if isinstance(asked.store, bool):
            call.scope["state"][STORE_STATE] = asked.store

    async def _made(self, call: CapturedCall, owner: Owner) -> CompletedRequest:
        try:
            return await self.threads.run(call.work, call.completed_request, owner)
        except Exception as exc:  # noqa: BLE001 -- whatever it is, the call was made and leaves a row
            log.error("the bodies of call %s are not stored, %s", call.name, describe(exc))
            return call.bare_request(owner)

    async def _owner_with_retries(self, call: CapturedCall) -> Owner:
        """Look up the owner again while ``attribute`` raises: a lookup that failed is not an unknown key."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._attribution_timeout
        attempt = 0
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self.owner(call.scope)
            except Dropped:
                raise
            except Exception as exc:
                delay = backoff(attempt, base=RETRY_BASE_DELAY, maximum=RETRY_MAX_DELAY)
                if loop.time() + delay >= deadline:
                    timeout = self._attribution_timeout
                    log.error("call %s: attribute failed for %g s, at last %s", call.name, timeout, describe(exc))
                    raise Dropped("attribution_failed") from exc
            await asyncio.sleep(delay)
            attempt += 1

    def _settle(self, task: asyncio.Task[None], share: Share, request_id: uuid.UUID) -> None:
        self._tasks.discard(task)
        share.settle(0)
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
            log.error("cannot record call %s: %s", request_id, describe(exc))
            self._drop("error")

    def _drop(self, reason: str) -> None:
        self._dropped[reason] += 1
        _captures.add(1, {"outcome": reason})
        number = self._dropped[reason]
        if is_worth_logging(number):
            log.warning("%d calls without a record so far: %s", number, reason)

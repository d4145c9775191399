"""``RwriterLogger`` records the calls of litellm: of its SDK, its router and its proxy.

    litellm.callbacks.append(RwriterLogger(writer))

litellm is no dependency of rwriter, because it pins versions of other libraries: install it beside.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from rwriter._database_errors import describe
from rwriter._hooks import is_worth_logging
from rwriter._validation import positive
from rwriter.integrations._litellm_event import completed, endpoint_of, is_async, owner_of
from rwriter.records import CompletedRequest
from rwriter.threaded import ThreadedWriter
from rwriter.writer import RequestsWriter

try:
    from litellm.integrations.custom_logger import CustomLogger
except ModuleNotFoundError as _exc:
    if _exc.name != "litellm":
        raise
    _msg = "rwriter.integrations.litellm needs the package litellm: pip install litellm"
    raise ModuleNotFoundError(_msg, name="litellm") from _exc

log: Final[logging.Logger] = logging.getLogger("rwriter")

AttributeEvent = Callable[[Mapping[str, Any]], str | None]
"""``attribute(kwargs)``: returns the owner of a call from what litellm passes to its loggers; ``None`` if unknown."""


class LoggerStats(msgspec.Struct, frozen=True):
    """Counts of calls.

    ``recorded``: accepted by the writer. ``ignored``: of a kind that is not recorded, or without an owner where there
    is no ``default_owner``. ``lost``: the writer had no room in time or was closed, or the logger failed.
    """

    recorded: int
    ignored: int
    lost: int


class RwriterLogger(CustomLogger):  # type: ignore[misc]  # litellm is not installed where types are checked
    """Makes one row of each call that litellm finishes, successful or not; a stream is one row, once it is complete.

    ``writer`` is a ``RequestsWriter``, and the logger then made on its event loop, or a ``ThreadedWriter``, which is
    what litellm's proxy needs, whose configuration is loaded before there is a loop. Calls on other loops, and
    synchronous ones, are handed over to the writer's.

    ``attribute`` returns the owner of a call, by default the user of the proxy's key, else its team. ``default_owner``
    owns calls without an owner; with ``None`` they are ignored, as are calls that the proxy refuses for a wrong key.
    ``timeout`` is how many seconds a record may wait for room in the writer's buffer before it is lost and counted.
    Nothing raised here reaches the call.

    In the row, ``model`` is the name the client asked for, ``api_key`` litellm's hash of the proxy's virtual key and
    ``custom_id`` the id of the answer; a failed call has the status of its exception and an ``error`` object as its
    body. A router's retries are calls of their own. litellm does not report a stream that the client leaves early.
    """

    def __init__(
        self,
        writer: RequestsWriter | ThreadedWriter,
        *,
        attribute: AttributeEvent | None = None,
        default_owner: str | None = "litellm",
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        positive("timeout", timeout)
        super().__init__(**options)
        self._target: Final = writer if isinstance(writer, ThreadedWriter) else (writer, _running_loop())
        self._attribute: Final = attribute if attribute is not None else owner_of
        self._default_owner: Final = default_owner
        self._timeout: Final = timeout
        self._sending: Final[set[asyncio.Task[None]]] = set()
        self._lock: Final = threading.Lock()
        self._counts: Final = {"recorded": 0, "ignored": 0, "lost": 0}

    @property
    def stats(self) -> LoggerStats:
        """The counts so far. A call is in none of them until litellm reports it."""
        with self._lock:
            return LoggerStats(**self._counts)

    # -- what litellm calls

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        """Record a call that was answered; of a stream litellm passes the whole answer."""
        await self._record(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        """Record a call that failed with ``kwargs["exception"]``."""
        await self._record(kwargs, response_obj, start_time, end_time)

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        """Record a synchronous call that was answered."""
        self._record_sync(kwargs, response_obj, start_time, end_time)

    def log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        """Record a synchronous call that failed."""
        self._record_sync(kwargs, response_obj, start_time, end_time)

    # -- inside

    async def _record(self, kwargs: dict[str, Any], response: Any, started: datetime, ended: datetime) -> None:
        record = self._made(kwargs, response, started, ended)
        if record is None:
            return
        try:
            await self._hand_over(record)
        except BaseException as exc:
            self._lost(exc)
            if not isinstance(exc, Exception):
                raise

    def _record_sync(self, kwargs: dict[str, Any], response: Any, started: datetime, ended: datetime) -> None:
        # the proxy reports a call that it refuses to both loggers; the asynchronous one records it
        record = None if is_async(kwargs) else self._made(kwargs, response, started, ended)
        if record is None:
            return
        try:
            self._hand_over_sync(record)
        except Exception as exc:  # noqa: BLE001 -- nothing may reach the call
            self._lost(exc)

    def _made(
        self, kwargs: dict[str, Any], response: Any, started: datetime, ended: datetime
    ) -> CompletedRequest | None:
        try:
            endpoint = endpoint_of(kwargs)
            owner = None if endpoint is None else self._attribute(kwargs) or self._default_owner
            if endpoint is None or owner is None:
                self._count("ignored")
                return None
            return completed(kwargs, response, started, ended, endpoint=endpoint, owner=owner)
        except Exception as exc:  # noqa: BLE001 -- nothing may reach the call
            self._lost(exc)
            return None

    async def _hand_over(self, record: CompletedRequest) -> None:
        if isinstance(self._target, ThreadedWriter):
            await asyncio.to_thread(self._target.send, record, timeout=self._timeout)
            self._count("recorded")
            return
        writer, loop = self._target
        if loop is asyncio.get_running_loop():
            await self._send(writer, record)
            return
        sending = self._send(writer, record)
        try:
            elsewhere = asyncio.run_coroutine_threadsafe(sending, loop)
        except RuntimeError:  # that loop is closed
            sending.close()
            raise
        # a loop that has stopped would never answer
        async with asyncio.timeout(self._timeout):
            await asyncio.wrap_future(elsewhere)

    def _hand_over_sync(self, record: CompletedRequest) -> None:
        if isinstance(self._target, ThreadedWriter):
            self._target.send(record, timeout=self._timeout)
            self._count("recorded")
            return
        writer, loop = self._target
        # not waited for, because the caller may be on the loop's own thread, or about to raise the call's error
        loop.call_soon_threadsafe(self._begin, writer, record)

    def _begin(self, writer: RequestsWriter, record: CompletedRequest) -> None:
        task = asyncio.create_task(self._send(writer, record), name="rwriter-litellm")
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        if failure is not None:
            self._lost(failure)

    async def _send(self, writer: RequestsWriter, record: CompletedRequest) -> None:
        async with asyncio.timeout(self._timeout):
            await writer.send(record)
        self._count("recorded")

    def _count(self, outcome: str) -> int:
        with self._lock:
            self._counts[outcome] += 1
            return self._counts[outcome]

    def _lost(self, exc: BaseException) -> None:
        number = self._count("lost")
        if is_worth_logging(number):
            log.error("litellm: a call was not recorded, %s; %d of them so far", describe(exc), number)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        msg = "make the logger where its writer's event loop runs, or give it a ThreadedWriter"
        raise RuntimeError(msg) from None

"""``ThreadedWriter``: the same writer for code without an event loop, on a loop and a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, Final, Literal, Self, TypeVar, Unpack

from rwriter._database_errors import describe
from rwriter.engines import EngineProvider, Engines, opened
from rwriter.errors import RwriterError, WriterClosed, WriterFailed, WriterForked, WriterNotOpen
from rwriter.records import CompletedRequest
from rwriter.sink import RecordSink
from rwriter.store import Erasure
from rwriter.threaded._store import SyncRequestStore
from rwriter.writer import Health, RequestsWriter, WriterOptions, WriterStats
from rwriter.writer._options import Options

T = TypeVar("T")

log = logging.getLogger("rwriter")

_Handler = Callable[[int, FrameType | None], None]

LIVENESS_CHECK: Final = 1.0
"""Seconds between two looks at whether the thread a caller waits for is alive."""


class ThreadedWriter:
    """A ``RequestsWriter`` for Flask, Django, scripts and callbacks: every method is synchronous and thread-safe.

    ``engines`` is a database URL, by default ``RWRITER_DATABASE_URL`` when it is opened, or a function that makes the
    engines or another sink: it is called on the writer's own thread, as their connections belong to its loop, and what
    it returns is closed there (``aclose()``, if it has one). Engines that no other loop uses, as those of a test, may
    be handed over as they are, and are not closed.
    ``options`` are those of ``RequestsWriter``. ``with ThreadedWriter(url) as writer`` opens and closes; without it
    call ``open()``, and ``close()`` happens at interpreter exit at the latest.

    Some processes end without that: by ``os._exit``, as the jobs of rq and some test runners do, and by SIGTERM, whose
    default handler ends a plain script on the spot. Call ``flush()`` (or leave the ``with`` block) before the former,
    and ``install_signal_handlers()`` against the latter.

    Not for use after a fork: open one in each worker process.
    """

    def __init__(
        self,
        engines: Engines | Callable[[], EngineProvider | RecordSink] | None = None,
        **options: Unpack[WriterOptions],
    ) -> None:
        self._engines: Final = engines
        Options(**options)  # a wrong one is refused here, not on the thread
        self._options: Final = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._writer: RequestsWriter | None = None
        self._lock: Final = threading.Lock()
        self._drains: Final[list[Callable[[], Awaitable[None]]]] = []
        self._closed = False
        self._pid = 0

    # -- life

    def open(self) -> Self:
        """Start the thread and open the writer. Raises what ``RequestsWriter`` raises on start."""
        with self._lock:
            if self._closed:
                msg = "a writer is used once: make another ThreadedWriter"
                raise WriterClosed(msg)
            if self._thread is not None:
                return self
            self._pid = os.getpid()
            started: concurrent.futures.Future[None] = concurrent.futures.Future()
            # a daemon: the interpreter must not wait for it before it was told to close
            self._thread = threading.Thread(target=self._main, args=(started,), name="rwriter", daemon=True)
            self._thread.start()
            try:
                started.result()
            except BaseException:
                self._closed = True
                raise
            _at_exit(self.close)
        return self

    def close(self, timeout: float | None = None) -> None:
        """Refuse new records, drain for up to ``timeout`` seconds (default ``drain_timeout``), end the thread."""
        with self._lock:
            if self._closed or self._thread is None or self._pid != os.getpid():
                self._closed = True
                return
            self._closed = True
            writer, loop, thread = self._opened()
            with contextlib.suppress(WriterFailed):
                self.run(self._drained(writer, timeout))
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def install_signal_handlers(self, *signals: signal.Signals) -> None:
        """Drain before ``signals`` (default SIGTERM) end the process, for up to ``drain_timeout`` seconds.

        What handled a signal before handles it afterwards; by default that ends the process by the same signal. Call
        it in the main thread, in the process that opened the writer. A service whose server handles SIGTERM, as
        gunicorn and uvicorn do, needs it not: it closes the writer where it ends.
        """
        for number in signals or (signal.SIGTERM,):
            signal.signal(number, self._draining_before(signal.getsignal(number)))

    def _draining_before(self, before: Callable[[int, FrameType | None], Any] | int | None) -> _Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            # without the lock: the main thread, which runs this, may hold it
            with contextlib.suppress(RwriterError):
                writer, _, _ = self._opened()
                self.run(self._drained(writer, None))
            if callable(before):
                before(number, frame)
            elif before is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(signal.Signals(number))

        return handle

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- records

    def send(
        self,
        record: CompletedRequest,
        *,
        timeout: float | None = None,
        wait: Literal["accepted", "committed"] = "accepted",
    ) -> None:
        """As ``RequestsWriter.send``; raises ``TimeoutError`` after ``timeout`` seconds.

        With ``wait="accepted"`` a record whose ``send`` timed out was not accepted.
        """
        writer, _, _ = self._opened()

        async def bounded() -> None:
            # inside the loop, so that a time-out and an acceptance cannot both be the answer
            async with asyncio.timeout(timeout):
                await writer.send(record, wait=wait)

        self.run(bounded())

    def send_nowait(self, record: CompletedRequest) -> None:
        """As ``RequestsWriter.send_nowait``: raises ``ChannelFull`` instead of waiting for room."""
        writer, _, _ = self._opened()

        async def now() -> None:
            writer.send_nowait(record)

        self.run(now())

    def flush(self, timeout: float | None = None) -> None:
        """As ``RequestsWriter.flush``."""
        writer, _, _ = self._opened()
        self.run(writer.flush(timeout))

    def get(self, request_id: uuid.UUID) -> CompletedRequest | None:
        """As ``RequestsWriter.get``."""
        writer, _, _ = self._opened()

        async def look() -> CompletedRequest | None:
            return writer.get(request_id)

        return self.run(look())

    def erase(self, created_by: str) -> Erasure:
        """As ``RequestsWriter.erase``."""
        writer, _, _ = self._opened()
        return self.run(writer.erase(created_by))

    @property
    def store(self) -> SyncRequestStore:
        """The store that the records go to, for reading them back. Raises as ``RequestsWriter.store``."""
        writer, _, _ = self._opened()
        return SyncRequestStore(writer.store, self.run)

    @property
    def stats(self) -> WriterStats:
        """As ``RequestsWriter.stats``; also after ``close()``."""
        writer, _, _ = self._opened()
        if self._closed:
            return writer.stats

        async def read() -> WriterStats:
            return writer.stats

        return self.run(read())

    @property
    def health(self) -> Health:
        """As ``RequestsWriter.health``; also after ``close()``."""
        writer, _, _ = self._opened()
        if self._closed:
            return writer.health

        async def read() -> Health:
            return writer.health

        return self.run(read())

    # -- for what stands before it

    def on_loop(self) -> tuple[RequestsWriter, asyncio.AbstractEventLoop]:
        """Return the writer inside and its loop, for code that runs there: see ``run``. Raises ``WriterNotOpen``."""
        writer, loop, _ = self._opened()
        return writer, loop

    def drain_first(self, drain: Callable[[], Awaitable[None]]) -> None:
        """Have ``drain`` awaited on the loop before the writer closes: what it still sends is accepted."""
        self._drains.append(drain)

    async def _drained(self, writer: RequestsWriter, timeout: float | None) -> None:
        for drain in self._drains:
            try:
                await drain()
            except Exception as exc:  # noqa: BLE001 -- whatever it is, the writer's own records are drained
                log.error("%s: what stands before the writer was not drained: %s", writer.name, describe(exc))
        await writer.aclose(timeout)

    # -- inside

    def _main(self, started: concurrent.futures.Future[None]) -> None:
        with asyncio.Runner() as runner:
            stack = contextlib.AsyncExitStack()
            try:
                self._loop = runner.get_loop()
                runner.run(self._start(stack))
            except BaseException as exc:  # noqa: BLE001 -- raised in open()
                started.set_exception(exc)
                return
            started.set_result(None)
            self._loop.run_forever()
            runner.run(stack.aclose())

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        try:
            self._writer = RequestsWriter(await stack.enter_async_context(self._destination()), **self._options)
            await self._writer.__aenter__()
        except BaseException:
            await stack.aclose()
            raise

    def _destination(self) -> contextlib.AbstractAsyncContextManager[EngineProvider | RecordSink]:
        return _made(self._engines) if callable(self._engines) else opened(self._engines)

    def _opened(self) -> tuple[RequestsWriter, asyncio.AbstractEventLoop, threading.Thread]:
        if self._thread is None or self._writer is None or self._loop is None:
            msg = "the writer is not open: use `with ThreadedWriter(url) as writer`, or call open()"
            raise WriterNotOpen(msg)
        if self._pid != os.getpid():
            msg = "this writer was opened before a fork: open one in each worker process"
            raise WriterForked(msg)
        return self._writer, self._loop, self._thread

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run ``work`` on the writer's loop. Return its answer, or raise what it raises.

        Raises ``TimeoutError`` after ``timeout`` seconds, ``WriterNotOpen`` and ``WriterClosed``, and ``RuntimeError``
        on the writer's own thread.
        """
        _, loop, thread = self._opened()
        if threading.get_ident() == thread.ident or not thread.is_alive():
            work.close()
            if not thread.is_alive():
                msg = "the writer is closed: its thread has ended"
                raise WriterClosed(msg)
            msg = "called from the writer's own thread, which would wait for itself: use RequestsWriter there"
            raise RuntimeError(msg)
        answer = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), loop)
        while True:
            try:
                return answer.result(LIVENESS_CHECK)
            except concurrent.futures.TimeoutError:
                if answer.done():
                    raise
                if not thread.is_alive():
                    msg = "the writer's thread ended before its time"
                    raise WriterFailed(msg) from None
            except BaseException:
                # KeyboardInterrupt in the caller: whatever it waited for is not wanted any more
                answer.cancel()
                raise


@contextlib.asynccontextmanager
async def _made(make: Callable[[], EngineProvider | RecordSink]) -> AsyncIterator[EngineProvider | RecordSink]:
    made = make()
    try:
        yield made
    finally:
        close = getattr(made, "aclose", None)
        if close is not None:
            await close()


def _at_exit(close: Callable[[], None]) -> None:
    # Before the interpreter forbids new threads: connecting needs one to resolve names. atexit itself comes too late.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(close)

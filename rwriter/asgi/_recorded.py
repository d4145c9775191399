"""``RecordedApp``: an ASGI app with everything around it that records its model calls and reads them back."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypedDict, Unpack

from rwriter.asgi._attribution import Attribute
from rwriter.asgi._capture.middleware import CaptureMiddleware
from rwriter.asgi._capture.privacy import Redact, Zdr
from rwriter.asgi._types import ASGIApp, Message, Receive, Scope, Send
from rwriter.engines import Engines, opened
from rwriter.errors import RwriterError, WriterNotOpen
from rwriter.store import RequestStore
from rwriter.writer import RequestsWriter, WriterOptions

if TYPE_CHECKING:
    from rwriter.asgi._reader.app import ResponsesApp


class RecorderOptions(TypedDict, total=False):
    """Options that the middlewares for ASGI and WSGI have in common."""

    paths: Collection[str]
    max_body_bytes: int
    zdr: Zdr | None
    redact: Redact | None
    attribution_ttl: float
    attribution_negative_ttl: float
    attribution_timeout: float
    lookup_timeout: float
    max_pending_bytes: int
    drain_timeout: float
    gen_ai_metrics: bool


class CaptureOptions(RecorderOptions, total=False):
    """Options of ``CaptureMiddleware``, as ``RecordedApp`` passes them on."""

    background: bool
    begin_timeout: float
    background_timeout: float
    background_limit: int


class RecordedApp:
    """An ASGI app whose model calls are recorded and read back: ``app = RecordedApp(app, attribute=owner_of)``.

    Engines, a ``RequestsWriter``, a ``CaptureMiddleware`` around ``app`` and the routes of ``responses_app`` before its
    own, made anew for each lifespan and closed after it. ``engines`` is a URL, a provider or an engine; left out, it is
    ``RWRITER_DATABASE_URL``, asked for when the lifespan begins. What is handed in is never closed here.

    ``attribute`` says whose an API key is. ``routes=False`` leaves the routes out. ``capture`` are options of
    ``CaptureMiddleware``, and all others those of ``RequestsWriter``.

    Without a server: ``async with recorded as app`` opens and closes it. ``on(engines)`` is the same app on other
    engines, for tests.
    """

    def __init__(
        self,
        app: ASGIApp,
        engines: Engines | None = None,
        *,
        attribute: Attribute,
        routes: bool = True,
        capture: CaptureOptions | None = None,
        **writer: Unpack[WriterOptions],
    ) -> None:
        self._app: Final = app
        self._engines: Final = engines
        self._attribute: Final = attribute
        self._has_routes: Final = routes
        self._capture_options: Final = capture or {}
        self._writer_options: Final = writer
        self._stack: AsyncExitStack | None = None
        self._writer: RequestsWriter | None = None
        self._capture: CaptureMiddleware | None = None
        self._routes: ResponsesApp | None = None

    def on(self, engines: Engines) -> RecordedApp:
        """Return the same app with the same options, not opened, on other engines."""
        return RecordedApp(
            self._app,
            engines,
            attribute=self._attribute,
            routes=self._has_routes,
            capture=self._capture_options,
            **self._writer_options,
        )

    @property
    def writer(self) -> RequestsWriter:
        """The writer of this lifespan. Raises ``WriterNotOpen`` outside of one."""
        if self._writer is None:
            msg = "the app is not open: its server runs no lifespan, use `async with` on the RecordedApp"
            raise WriterNotOpen(msg)
        return self._writer

    @property
    def store(self) -> RequestStore:
        """The store that the writer writes to. Raises ``WriterNotOpen`` outside of a lifespan."""
        return self.writer.store

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            # a second writer would take the first one's place, and nobody would drain that
            msg = "the app is open: close it first, or open another one with on(engines)"
            raise RwriterError(msg)
        async with AsyncExitStack() as stack:
            engines = await stack.enter_async_context(opened(self._engines))
            writer = RequestsWriter(RequestStore(engines), **self._writer_options)
            capture = CaptureMiddleware(self._app, writer, attribute=self._attribute, **self._capture_options)
            self._routes = self._routes_of(writer)
            await stack.enter_async_context(writer)
            # before the writer closes, which takes what this leaves of its time
            stack.push_async_callback(capture.aclose)
            self._writer, self._capture, self._stack = writer, capture, stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack, self._writer, self._capture, self._routes = self._stack, None, None, None, None
        if stack is not None:
            await stack.aclose()

    async def flush(self, timeout: float | None = None) -> None:
        """Return when every call answered so far is stored, or has another fate.

        Raises ``TimeoutError`` after ``timeout`` seconds, ``WriterNotOpen`` outside of a lifespan.
        """
        writer = self.writer
        async with asyncio.timeout(timeout):
            if self._capture is not None:
                await self._capture.flush()
            await writer.flush()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    # -- inside

    def _routes_of(self, writer: RequestsWriter) -> ResponsesApp | None:
        if not self._has_routes:
            return None
        from rwriter.asgi import responses_app  # noqa: PLC0415 -- needs Starlette, which routes=False does not

        return responses_app(writer.store, writer=writer, attribute=self._attribute)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        _ = self.writer
        if self._routes is not None and self._routes.takes(scope):
            await self._routes(scope, receive, send)
        elif self._capture is not None:
            await self._capture(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open before the app's own startup, and close after its shutdown."""
        lifespan = _Lifespan(await receive(), receive, send)
        try:
            await self.__aenter__()
        except Exception as exc:
            await send({"type": "lifespan.startup.failed", "message": f"{type(exc).__name__}: {exc}"})
            raise
        try:
            # through the middleware, which lets background responses end before the app closes what they need
            await lifespan.run(self._capture or self._app, scope)
        finally:
            await self.__aexit__(None, None, None)
        await lifespan.end()


class _Lifespan:
    """The lifespan of the app inside: its last message is held back until what is around it is closed."""

    def __init__(self, first: Message, receive: Receive, send: Send) -> None:
        self._first: Message | None = first
        self._receive: Final = receive
        self._send: Final = send
        self._has_answered = False
        self._last: Message | None = {"type": "lifespan.shutdown.complete"}

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Run the app's own lifespan, or wait for the server's end where the app has none."""
        try:
            await app(scope, self._receiving, self._sending)
        except Exception:
            if self._has_answered:
                raise
        if not self._has_answered:
            # an app without a lifespan raises, or returns: the server is to have one all the same
            await self._send({"type": "lifespan.startup.complete"})
            await self._receive()

    async def end(self) -> None:
        """Tell the server that it may end, unless it was told that the app did not start."""
        if self._last is not None:
            await self._send(self._last)

    async def _receiving(self) -> Message:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._receive()

    async def _sending(self, message: Message) -> None:
        self._has_answered = True
        if message["type"].startswith("lifespan.shutdown."):
            self._last = message
            return
        if message["type"] == "lifespan.startup.failed":
            self._last = None
        await self._send(message)

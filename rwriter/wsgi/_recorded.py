"""``RecordedApp`` for WSGI: an app with everything around it that records its model calls and reads them back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, Unpack

import msgspec

from rwriter.asgi._recorded import RecorderOptions
from rwriter.engines import EngineProvider, Engines
from rwriter.threaded import SyncRequestStore, ThreadedWriter
from rwriter.writer import WriterOptions
from rwriter.wsgi._capture import Attribute, CaptureMiddleware, on_thread
from rwriter.wsgi._routes import answered
from rwriter.wsgi._types import Environ, StartResponse, WSGIApp, scope_of

if TYPE_CHECKING:
    from rwriter.asgi._reader.app import ResponsesApp


class CaptureOptions(RecorderOptions, total=False):
    """Options of ``CaptureMiddleware``, as ``RecordedApp`` passes them on."""


class _Parts(msgspec.Struct, frozen=True, gc=False):
    """The parts around the app in one process."""

    pid: int
    writer: ThreadedWriter
    capture: CaptureMiddleware
    routes: ResponsesApp | None


class RecordedApp:
    """A WSGI app whose model calls are recorded and read back: ``app.wsgi_app = RecordedApp(app.wsgi_app, ...)``.

    A ``ThreadedWriter``, a ``CaptureMiddleware`` around ``app`` and the routes of ``rwriter.asgi.responses_app`` before
    its own, made in each process when its first request comes, so that servers may fork, and closed at the
    interpreter's exit at the latest. ``engines`` is as for ``ThreadedWriter``, ``RWRITER_DATABASE_URL`` if left out.

    ``attribute(api_key, environ)`` says whose an API key is. ``routes=False`` leaves the routes out. ``capture`` are
    options of ``CaptureMiddleware``, and all others those of ``RequestsWriter``.

    ``with recorded`` opens and closes it; after that the next request opens it anew. ``on(engines)`` is the same app on
    other engines, for tests.
    """

    def __init__(
        self,
        app: WSGIApp,
        engines: Engines | Callable[[], EngineProvider] | None = None,
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
        self._lock: Final = threading.Lock()
        self._parts: _Parts | None = None

    def on(self, engines: Engines | Callable[[], EngineProvider]) -> RecordedApp:
        """Return the same app with the same options, not opened, on other engines."""
        return RecordedApp(
            self._app,
            engines,
            attribute=self._attribute,
            routes=self._has_routes,
            capture=self._capture_options,
            **self._writer_options,
        )

    def open(self) -> Self:
        """Open the writer of this process. Raises what ``ThreadedWriter.open`` raises."""
        self._opened()
        return self

    def close(self, timeout: float | None = None) -> None:
        """Take what was answered so far, and drain for up to ``timeout`` seconds (default ``drain_timeout``)."""
        with self._lock:
            parts, self._parts = self._parts, None
        if parts is not None and parts.pid == os.getpid():
            parts.writer.close(timeout)

    def flush(self, timeout: float | None = None) -> None:
        """Return when every call answered so far is stored, or has another fate.

        Raises ``TimeoutError`` after ``timeout`` seconds, first for the calls and then for their records.
        """
        parts = self._opened()
        if not parts.capture.flush(timeout):
            raise TimeoutError
        parts.writer.flush(timeout)

    @property
    def writer(self) -> ThreadedWriter:
        """The writer of this process, open."""
        return self._opened().writer

    @property
    def store(self) -> SyncRequestStore:
        """The store that the writer writes to."""
        return self.writer.store

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        parts = self._opened()
        scope = scope_of(environ)
        if parts.routes is not None and parts.routes.takes(scope):
            return answered(parts.routes, parts.writer, scope, start_response)
        return parts.capture(environ, start_response)

    # -- inside

    def _opened(self) -> _Parts:
        with self._lock:
            if self._parts is None or self._parts.pid != os.getpid():
                self._parts = self._make()
            return self._parts

    def _make(self) -> _Parts:
        writer = ThreadedWriter(self._engines, **self._writer_options)
        capture = CaptureMiddleware(self._app, writer, attribute=self._attribute, **self._capture_options)
        writer.open()
        return _Parts(os.getpid(), writer, capture, self._routes_of(writer))

    def _routes_of(self, writer: ThreadedWriter) -> ResponsesApp | None:
        if not self._has_routes:
            return None
        from rwriter.asgi import responses_app  # noqa: PLC0415 -- needs Starlette, which routes=False does not

        inside, _ = writer.on_loop()
        return responses_app(inside.store, writer=inside, attribute=on_thread(self._attribute))

"""``CaptureMiddleware`` for WSGI: the recorder of ``rwriter.asgi``, on the loop of a ``ThreadedWriter``."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Any, Final

from rwriter._hooks import resolve
from rwriter._validation import at_least, positive
from rwriter.asgi._attribution import Attribute as AsgiAttribute
from rwriter.asgi._attribution import Attribution, is_from_state
from rwriter.asgi._capture.budget import Share
from rwriter.asgi._capture.genai import GenAiMetrics
from rwriter.asgi._capture.middleware import ID_STATE, MIB, RECORD_GRACE, CaptureStats
from rwriter.asgi._capture.paths import PATHS, Tracked
from rwriter.asgi._capture.privacy import Privacy, Redact, Zdr
from rwriter.asgi._capture.recorder import Recorder
from rwriter.asgi._types import Scope
from rwriter.records import new_request_id
from rwriter.threaded import ThreadedWriter
from rwriter.writer import RequestsWriter
from rwriter.wsgi._call import WsgiCall
from rwriter.wsgi._types import ENVIRON, Environ, StartResponse, WSGIApp, scope_of

Attribute = Callable[[str, Any], str | Awaitable[str | None] | None]
"""``attribute(api_key, environ)``: returns the owner of a key, or ``None`` for a key that nobody owns.

A plain function runs on a thread and may block. It raises if it cannot tell.
"""


class CaptureMiddleware:
    """Records ``POST`` requests to model endpoints of a WSGI app through a ``ThreadedWriter``.

    ``app.wsgi_app = CaptureMiddleware(app.wsgi_app, writer, attribute=owner_of)`` in Flask. ``writer`` is opened with
    the first request of each process, if it is not open by then, so that it is opened after a fork; its ``close()``
    takes what this middleware still has. The app finds the request's UUIDv7 in ``environ["rwriter.request_id"]``, the
    client in the response header ``x-rwriter-id`` (``resp_<uuid>``).

    The options are those of ``rwriter.asgi.CaptureMiddleware``, less the background responses, which WSGI has not. Two
    things are told apart there and not here: a client that leaves is noticed when the next piece cannot be sent to it,
    and of a request's body the row has what the app has read. ``environ["rwriter.state"]`` takes the place of
    ``scope["state"]`` for ``attribute_from_state``. ``zdr`` is given a scope made of ``environ``.

    Raises ``ValueError`` or ``TypeError`` naming the option that cannot be used.
    """

    def __init__(  # noqa: PLR0913 -- the options of the other middleware, keyword-only
        self,
        app: WSGIApp,
        writer: ThreadedWriter,
        *,
        attribute: Attribute,
        paths: Collection[str] = PATHS.default,
        max_body_bytes: int = 8 * MIB,
        zdr: Zdr | None = None,
        redact: Redact | None = None,
        attribution_ttl: float = 300.0,
        attribution_negative_ttl: float = 10.0,
        attribution_timeout: float = 300.0,
        lookup_timeout: float = 10.0,
        max_pending_bytes: int = 64 * MIB,
        drain_timeout: float = 4.0,
        gen_ai_metrics: bool = False,
    ) -> None:
        for option, value in (
            ("max_body_bytes", max_body_bytes),
            ("attribution_timeout", attribution_timeout),
            ("max_pending_bytes", max_pending_bytes),
        ):
            positive(option, value)
        at_least("drain_timeout", drain_timeout, 0)
        self._app: Final = app
        self._writer: Final = writer
        self._tracked: Final = Tracked(paths)
        self._max_body_bytes: Final = max_body_bytes
        self._drain_timeout: Final = drain_timeout
        attribution = partial(
            Attribution,
            on_thread(attribute),
            ttl=attribution_ttl,
            negative_ttl=attribution_negative_ttl,
            timeout=lookup_timeout,
        )
        attribution()  # a wrong option is refused here, not by the first request
        self._make_recorder: Final[Callable[[RequestsWriter], Recorder]] = lambda inside: Recorder(
            inside,
            attribution(),
            Privacy(zdr=zdr, redact=redact),
            attribution_timeout=attribution_timeout,
            max_pending_bytes=max_pending_bytes,
            gen_ai=GenAiMetrics() if gen_ai_metrics else None,
        )
        self._lock: Final = threading.Lock()
        self._recorder: Recorder | None = None
        self._pid = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, and record it if it is a model call."""
        scope = scope_of(environ)
        if scope["method"] != "POST" or scope["path"] not in self._tracked:
            return self._app(environ, start_response)
        recorder = self._opened()
        share = self._writer.run(_admitted(recorder, scope))
        if share is None:
            return self._app(environ, start_response)
        request_id = new_request_id()
        scope["state"][ID_STATE] = request_id
        environ["rwriter.request_id"], environ["rwriter.state"] = request_id, scope["state"]
        _, loop = self._writer.on_loop()
        call = WsgiCall(
            scope,
            request_id,
            max_body_bytes=self._max_body_bytes,
            share=share,
            on_end=partial(_hand_over, loop, recorder, share.held),
        )
        return call.serve(self._app, environ, start_response)

    @property
    def stats(self) -> CaptureStats:
        """The account of this process. Opens the writer if it is not."""
        recorder = self._opened()
        return self._writer.run(_stats(recorder))

    def flush(self, timeout: float | None = None) -> bool:
        """Return when every call answered so far is in the writer or dropped; False after ``timeout`` seconds.

        The writer's own ``flush`` then stores them.
        """
        return self._writer.run(self._opened().flush(timeout))

    # -- inside

    def _opened(self) -> Recorder:
        """Return the recorder of this process. The first to ask opens the writer."""
        with self._lock:
            if self._recorder is None or self._pid != os.getpid():
                self._writer.open()
                inside, _ = self._writer.on_loop()
                self._recorder, self._pid = self._make_recorder(inside), os.getpid()
                self._writer.drain_first(partial(self._drain, inside, self._recorder))
            return self._recorder

    async def _drain(self, inside: RequestsWriter, recorder: Recorder) -> None:
        await inside.begin_shutdown()
        await recorder.drain(asyncio.get_running_loop().time() + self._drain_timeout + RECORD_GRACE)


def _hand_over(loop: asyncio.AbstractEventLoop, recorder: Recorder, size: int, call: Any) -> None:
    # a loop that is closed takes nothing more: the writer's process is at its end
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(recorder.on_end, call, size)


async def _admitted(recorder: Recorder, scope: Scope) -> Share | None:
    return recorder.admit(scope)


async def _stats(recorder: Recorder) -> CaptureStats:
    return recorder.stats


def on_thread(attribute: Attribute) -> AsgiAttribute:
    """Return ``attribute`` for the loop: a plain function may block there, so it runs on a thread."""
    if is_from_state(attribute) or not callable(attribute):
        return attribute
    function: Callable[[str, Any], Any] = attribute

    async def asked(api_key: str, scope: Scope) -> str | None:
        if inspect.iscoroutinefunction(function):
            answer = function(api_key, scope[ENVIRON])
        else:
            answer = await asyncio.to_thread(function, api_key, scope[ENVIRON])
        found: str | None = await resolve(answer)
        return found

    return asked

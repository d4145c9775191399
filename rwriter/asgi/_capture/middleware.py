"""``CaptureMiddleware`` makes a record of every model call that passes through an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import Final

from rwriter._validation import at_least, positive
from rwriter.asgi._attribution import Attribute, Attribution
from rwriter.asgi._capture.background import Background
from rwriter.asgi._capture.call import CapturedCall
from rwriter.asgi._capture.endings import DISCONNECTED
from rwriter.asgi._capture.genai import GenAiMetrics
from rwriter.asgi._capture.paths import PATHS, Tracked
from rwriter.asgi._capture.privacy import Privacy, Redact, Zdr
from rwriter.asgi._capture.recorder import CaptureStats, Recorder
from rwriter.asgi._types import ASGIApp, Message, Receive, Scope, Send
from rwriter.records import new_request_id
from rwriter.store import RequestStore
from rwriter.writer import RequestsWriter

__all__ = ("CaptureMiddleware", "CaptureStats")

BACKGROUND_PATH: Final = "/responses"
ID_STATE: Final = "rwriter_request_id"
"""Key in ``scope["state"]`` under which the app finds the request id."""

RECORD_GRACE: Final = 1.0
"""Seconds that records get to reach the writer at shutdown, after the drain deadline has stopped their calls."""
MIB: Final = 1024 * 1024


class CaptureMiddleware:
    """Records ``POST`` requests to model endpoints through ``writer``; the client never waits for the database.

    Plain ASGI: ``app.add_middleware(CaptureMiddleware, writer=writer, attribute=attribute)`` or
    ``CaptureMiddleware(app, writer, attribute=attribute)``. The writer may be opened later, in the lifespan. Each
    tracked request gets a UUIDv7: the app finds it in ``scope["state"]["rwriter_request_id"]``, the client in the
    response header ``x-rwriter-id`` (``resp_<uuid>``).

    ============================ =============== ==============================================================
    option                       default         meaning
    ============================ =============== ==============================================================
    ``attribute``                required        ``attribute(api_key, scope) -> created_by | None``, async or not, or
                                                 ``attribute_from_state()``; called after the client has its answer
    ``paths``                    PATHS.default   how tracked paths end: named sets of ``PATHS`` and endings of your own
    ``max_body_bytes``           8 MiB           of a larger body the size and the head are stored
    ``zdr``                      ``None``        ``zdr(scope, created_by) -> bool``: store neither body nor error text
    ``redact``                   ``None``        ``redact(record) -> record``, before anything leaves the request
    ``attribution_ttl``          300 s           how long an owner is remembered; 0 asks every time
    ``attribution_negative_ttl`` 10 s            how long an unknown key is
    ``attribution_timeout``      300 s           how long ``attribute`` is asked again while it raises
    ``lookup_timeout``           10 s            how long one answer of ``attribute`` may take; then it counts as raised
    ``max_pending_bytes``        64 MiB          memory of all calls together, running and ended: bodies, headers, 8 KiB
                                                 a call; past it bodies are cut, and calls dropped as ``overloaded``
    ``background``               ``True``        take ``"background": true`` of ``POST /responses`` upon itself; never
                                                 where the writer's records go to another sink than a database
    ``begin_timeout``            10 s            how long a background client waits for its row before 503, and the
                                                 middleware for the next piece of a body it reads ahead of the app
    ``background_timeout``       3600 s          how long a background response may run
    ``background_limit``         1,000           how many run at once for one owner; past it 503
    ``drain_timeout``            4 s             how long shutdown waits for background responses and records
    ``gen_ai_metrics``           ``False``       measure calls as OpenTelemetry's GenAI conventions name it
    ============================ =============== ==============================================================

    It drains when the server's lifespan ends, before the app's own shutdown closes the writer; a service without a
    lifespan calls ``aclose()``. Raises ``ValueError`` or ``TypeError`` naming the option that cannot be used.
    """

    def __init__(  # noqa: PLR0913 -- the options of the table above, keyword-only
        self,
        app: ASGIApp,
        writer: RequestsWriter,
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
        background: bool = True,
        begin_timeout: float = 10.0,
        background_timeout: float = 3600.0,
        background_limit: int = 1_000,
        drain_timeout: float = 4.0,
        gen_ai_metrics: bool = False,
    ) -> None:
        self._tracked: Final = Tracked(paths)
        for option, value in (
            ("max_body_bytes", max_body_bytes),
            ("attribution_timeout", attribution_timeout),
            ("max_pending_bytes", max_pending_bytes),
            ("begin_timeout", begin_timeout),
            ("background_timeout", background_timeout),
            ("background_limit", background_limit),
        ):
            positive(option, value)
        at_least("drain_timeout", drain_timeout, 0)
        self._app: Final = app
        self._writer: Final = writer
        self._max_body_bytes: Final = max_body_bytes
        self._drain_timeout: Final = drain_timeout
        self._recorder: Final = Recorder(
            writer,
            Attribution(attribute, ttl=attribution_ttl, negative_ttl=attribution_negative_ttl, timeout=lookup_timeout),
            Privacy(zdr=zdr, redact=redact),
            attribution_timeout=attribution_timeout,
            max_pending_bytes=max_pending_bytes,
            gen_ai=GenAiMetrics() if gen_ai_metrics else None,
        )
        self._background: Background | None = None
        # a background row is there before its answer, which takes the database itself
        if background and isinstance(writer.sink, RequestStore):
            self._background = Background(
                writer,
                self._recorder,
                begin_timeout=begin_timeout,
                timeout=background_timeout,
                limit=background_limit,
            )

    @property
    def stats(self) -> CaptureStats:
        """The account, exact at this instant."""
        return self._recorder.stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: capture it if it is a model call, drain when the lifespan ends."""
        if scope["type"] == "lifespan":
            await self._app(scope, self._draining(receive), send)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._tracked:
            await self._capture(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def flush(self, timeout: float | None = None) -> bool:
        """Return when every call answered so far is in the writer or dropped; False after ``timeout`` seconds.

        The writer's own ``flush`` then stores them. A call whose ``attribute`` cannot tell is waited for, too.
        """
        return await self._recorder.flush(timeout)

    async def aclose(self, timeout: float | None = None) -> None:
        """Wait up to ``timeout`` seconds (default ``drain_timeout``) for background responses, then stop them.

        Afterwards every call has its record in the writer or is counted as dropped. The writer stays open, and its own
        drain, which is to follow, takes what is left of its ``drain_timeout``.
        """
        await self._writer.begin_shutdown()
        deadline = asyncio.get_running_loop().time() + (self._drain_timeout if timeout is None else timeout)
        if self._background is not None:
            await self._background.drain(deadline)
        await self._recorder.drain(deadline + RECORD_GRACE)

    # -- inside

    async def _capture(self, scope: Scope, receive: Receive, send: Send) -> None:
        share = self._recorder.admit(scope)
        if share is None:
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        # in the server's own dict, so that `attribute` can read afterwards what the app puts beside it
        scope.setdefault("state", {})[ID_STATE] = request_id
        on_end = partial(self._recorder.on_end, size=share.held)
        call = CapturedCall(scope, request_id, max_body_bytes=self._max_body_bytes, share=share, on_end=on_end)
        if self._background is not None and scope["path"].rstrip("/").endswith(BACKGROUND_PATH):
            try:
                if await self._background.take(self._app, call, receive, send):
                    return
            except BaseException:
                call.finish(DISCONNECTED)
                raise
        await call.run(self._app, receive, send)

    def _draining(self, receive: Receive) -> Receive:
        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                # drain before the app is told, because its own shutdown closes the writer
                await self.aclose()
            return message

        return receiving

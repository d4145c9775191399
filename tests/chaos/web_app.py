"""An ordinary service for uvicorn and gunicorn to run: an ASGI application with a writer in its lifespan.

``POST /`` is a call: it is recorded, and answered with the id of its record. ``GET /preloaded`` tries the writer that
was opened when this module was imported, under ``gunicorn --preload`` before the fork, and answers what it said.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rwriter import DbEngines, RequestsWriter, RwriterError, Spool
from rwriter.threaded import ThreadedWriter
from tests.support.records import record

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

URL = os.environ["RWRITER_DATABASE_URL"]
SPOOL = os.environ["CHAOS_SPOOL"]

logging.basicConfig(level=logging.INFO)


class Service:
    """The application; one writer for each worker, opened in the worker."""

    def __init__(self) -> None:
        self.writer: RequestsWriter | None = None
        self.preloaded = ThreadedWriter(URL).open() if "CHAOS_PRELOAD" in os.environ else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        async with DbEngines.from_url(URL) as engines:
            # a long linger, so that there is something to drain whenever the end comes
            async with RequestsWriter(engines, spool=Spool(SPOOL), linger=5) as self.writer:
                await send({"type": "lifespan.startup.complete"})
                assert (await receive())["type"] == "lifespan.shutdown"
        logging.getLogger("service").info("closed: %s", self.writer.stats)
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Message, send: Send) -> None:
        text = self._try_preloaded() if scope["path"] == "/preloaded" else await self._record()
        body = text.encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"x-pid", str(os.getpid()).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _record(self) -> str:
        assert self.writer is not None
        item = record()
        await self.writer.send(item)
        return str(item.request_id)

    def _try_preloaded(self) -> str:
        assert self.preloaded is not None
        try:
            self.preloaded.send_nowait(record())
        except RwriterError as refusal:
            return f"{type(refusal).__name__}: {refusal}"
        return "accepted"


app = Service()

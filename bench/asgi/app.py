"""Serve the app that ``bench asgi`` measures: ``python -m bench.asgi.app KIND URL`` prints its port when it listens."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import uvicorn
from sqlalchemy import make_url

from bench.database import Database
from bench.traffic import MODEL, RESPONSE_BYTES
from rwriter import RequestsWriter, Spool
from rwriter.asgi import CaptureMiddleware
from rwriter.asgi._types import ASGIApp, Receive, Scope, Send

CHUNKS: Final = 50
STREAMED: Final = (b"content-type", b"text/event-stream")


def main(kind: str, url: str) -> None:
    """Serve until SIGTERM."""
    # named TCP, or asyncio takes it for something else and leaves Nagle's algorithm on: 40 ms an answer
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    print(listening.getsockname()[1], flush=True)
    with tempfile.TemporaryDirectory(prefix="rwriter-bench-") as folder:
        app: Any = Gateway(kind, url, folder)
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[listening])


def _refusing(url: str) -> str:
    """``url`` with a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return make_url(url).set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


class Gateway:
    """The app: two answers, ready made, and on ``/state`` the numbers of records pending and settled.

    It is plain for the kind ``off``, and behind the middleware for the others.
    """

    def __init__(self, kind: str, url: str, folder: str) -> None:
        self._captured = kind != "off"
        self._database = Database(_refusing(url) if kind == "down" else url)
        self._options: dict[str, Any] = {}
        if kind in {"journal", "down"}:
            self._options = {"spool": Spool(folder, max_bytes=1 << 33)}
        if kind == "journal":
            self._options["durability"] = "journal"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the ASGI interface."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["path"] == "/state":
            await say(send, [json.dumps(self._state()).encode()])
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Keep a writer while the server lives."""
        self._app: ASGIApp = _answer
        async with self._database.engines(3) as engines, RequestsWriter(engines, **self._options) as self._writer:
            if self._captured:
                self._app = self._middleware = CaptureMiddleware(_answer, self._writer, attribute=lambda *_: "bench")
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if self._captured:
                await self._middleware.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _state(self) -> dict[str, int]:
        """Count by the accounts of the middleware and the writer; what was dropped is missing, as it should not be."""
        if not self._captured:
            return {"pending": 0, "recorded": 0}
        capture, writer = self._middleware.stats, self._writer.stats
        pending = capture.running + capture.pending + writer.pending
        return {"pending": pending, "recorded": writer.persisted + writer.spooled}


async def _answer(_scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await say(send, STREAM if json.loads(body)["stream"] else [PLAIN])


async def say(send: Send, answer: Sequence[bytes], status: int = 200) -> None:
    """Send ``answer``: JSON if it is one piece, and a stream of events if there are more."""
    length = (b"content-length", str(len(answer[0])).encode())
    headers = [(b"content-type", b"application/json"), length] if len(answer) == 1 else [STREAMED]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for piece in answer:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 400, "completion_tokens": 800, "total_tokens": 1_200}
    whole = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    return msgspec.json.encode(whole | {"usage": usage})


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return b"data: " + msgspec.json.encode(chunk | {"choices": [choice]}) + b"\n\n"


WORDS: Final = "every word of an answer that says nothing much at all, "
PLAIN: Final = _completion((WORDS * 100)[: RESPONSE_BYTES - len(_completion(""))])
STREAM: Final = [
    _event({"role": "assistant", "content": ""}),
    *(_event({"content": WORDS}) for _ in range(CHUNKS - 3)),
    _event({}, "stop"),
    b"data: [DONE]\n\n",
]


if __name__ == "__main__":
    main(*sys.argv[1:])

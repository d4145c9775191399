"""An ASGI server and its client in one: asks an app, hears its answer, leaves when it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rwriter.asgi._types import ASGIApp, Message, Receive, Scope, Send
from tests.support.driving import eventually

KEY: Final = "sk-alice"
OWNER: Final = "alice"


def owners(api_key: str, scope: Scope) -> str | None:
    """An ``attribute``: alice and bob have keys."""
    return {KEY: OWNER, "sk-bob": "bob"}.get(api_key)


class Exchange:
    """One request and what comes of it. ``leave()`` closes the connection."""

    def __init__(
        self,
        app: ASGIApp,
        body: bytes | Sequence[bytes] = b'{"model":"gpt-test","input":"hello"}',
        *,
        path: str = "/v1/responses",
        key: str | None = KEY,
        headers: Iterable[tuple[bytes, bytes]] = (),
        **scope: Any,
    ) -> None:
        credentials = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
        self.scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "headers": [*credentials, *headers], "query_string": b"", "state": {},
        } | scope  # fmt: skip
        parts = [body] if isinstance(body, bytes) else list(body)
        self._asks: list[Message] = [
            {"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts
        ]
        self._app = app
        self._gone = asyncio.Event()
        self.heard: list[Message] = []
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> Exchange:
        """The whole of it, to the app's end."""
        await self._app(self.scope, self._receive, self._send)
        return self

    def start(self) -> Exchange:
        """Begin, and go on beside it."""
        self.task = asyncio.create_task(self.run())  # type: ignore[arg-type]
        return self

    async def until(self, number: int) -> None:
        """Until so many messages were heard."""
        await eventually(lambda: len(self.heard) >= number)

    def leave(self) -> None:
        """The client closes its connection."""
        self._gone.set()

    async def end(self) -> Exchange:
        """Until the app returns."""
        assert self.task is not None
        await asyncio.wait_for(self.task, 20)
        return self

    @property
    def status(self) -> int:
        status: int = self.heard[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.heard[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.heard if message["type"] == "http.response.body")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def _receive(self) -> Message:
        if self._asks:
            return self._asks.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.heard.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            # a server has nothing more to hear of this request
            self._gone.set()


async def read(receive: Receive) -> bytes:
    """An app's reading of the request's body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    return body


async def say(send: Send, *parts: bytes, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """An app's answer, in pieces; the last ends it."""
    await begin(send, status=status, headers=headers)
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def begin(send: Send, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


SSE: Final = [(b"content-type", b"text/event-stream; charset=utf-8")]


def chunk(content: str, **fields: Any) -> bytes:
    """A piece of a streamed chat completion."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None} | fields
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


DONE: Final = b"data: [DONE]\n\n"

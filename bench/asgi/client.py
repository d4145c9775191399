"""Ask the app of ``bench asgi``: an order on standard input, a ``Turn`` back for each."""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import time
from typing import Any, Final

import msgspec

from bench.traffic import MODEL, REQUEST_BYTES

PATH: Final = "/v1/chat/completions"
WORDS: Final = "every word of a question that asks nothing much at all, "


class Turn(msgspec.Struct, frozen=True):
    """The client's view of a turn. Times are seconds; ``busy`` is its own processor's part of the turn."""

    answers: int
    rate: float
    p50: float
    p99: float
    busy: float


def main() -> None:
    """Each order is ``[port, "plain" or "stream", connections, pause, seconds]``."""
    for line in sys.stdin:
        print(msgspec.json.encode(asyncio.run(_turn(*json.loads(line)))).decode(), flush=True)


async def _turn(port: int, shape: str, connections: int, pause: float, seconds: float) -> Turn:
    waits: list[float] = []
    request = _request(port, streamed=shape == "stream")
    began, worked = time.perf_counter(), time.process_time()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Asking(request, waits, pause, began + seconds), "127.0.0.1", port)
        for _ in range(connections)
    ]
    for _, asking in made:
        await asking.ended
    took, worked = time.perf_counter() - began, time.process_time() - worked
    late = statistics.quantiles(waits, n=100)[98]
    return Turn(len(waits), len(waits) / took, statistics.median(waits), late, worked / took)


def _request(port: int, *, streamed: bool) -> bytes:
    asked = {"model": MODEL, "stream": streamed, "messages": [{"role": "user", "content": ""}]}
    room = REQUEST_BYTES - len(msgspec.json.encode(asked))
    asked["messages"] = [{"role": "user", "content": (WORDS * 100)[:room]}]
    body = msgspec.json.encode(asked)
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer sk-bench\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class _Asking(asyncio.Protocol):
    """One connection, kept alive: asks, waits for the whole answer, asks again. It parses no more than it must."""

    def __init__(self, request: bytes, waits: list[float], pause: float, until: float) -> None:
        self._request = request
        self._waits = waits
        self._pause = pause
        self._until = until
        self._answer = bytearray()
        self._size = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport: Any = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Ask again once the answer is whole."""
        self._answer += data
        if not self._is_whole():
            return
        now = time.perf_counter()
        self._waits.append(now - self._began)
        if not self._answer.startswith(b"HTTP/1.1 200"):
            self._fail(f"the server answered {bytes(self._answer[:40])!r}")
        elif now + self._pause < self._until:
            self._again()
        else:
            self.ended.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so, unless it was meant."""
        self._fail(f"the server closed the connection: {exc!r}")

    def _again(self) -> None:
        if self._pause:
            # not in step with the others, nor with the writer
            pause = self._pause * random.uniform(0.5, 1.5)
            asyncio.get_running_loop().call_later(pause, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._answer.clear()
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def _is_whole(self) -> bool:
        if self._size == 0 and (end := self._answer.find(b"\r\n\r\n")) > 0:
            length = re.search(rb"content-length: (\d+)", self._answer[:end])
            self._size = -1 if length is None else end + 4 + int(length[1])
        # every answer of a connection is as long as the first, or chunked
        return self._answer.endswith(b"\r\n0\r\n\r\n") if self._size < 0 else 0 < self._size <= len(self._answer)

    def _fail(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(RuntimeError(reason))


if __name__ == "__main__":
    main()

"""Ask the app of ``bench asgi``: an order on standard input, the figures of the turn back for each."""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import time
from typing import Final

from bench.traffic import MODEL, REQUEST_BYTES

WORDS: Final = "every word of a question that asks nothing much at all, " * 100


def main() -> None:
    """Carry out orders: each is ``[port, "plain" or "stream", connections, pause, seconds]``."""
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_turn(*json.loads(line)))), flush=True)


async def _turn(port: int, shape: str, connections: int, pause: float, seconds: float) -> dict[str, float]:
    """Return answers, answers a second, seconds of each at p50 and p99, and how ``busy`` this process was."""
    waits: list[float] = []
    request = _request(streamed=shape == "stream")
    began, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_asking(port, request, waits, pause, began + seconds) for _ in range(connections)))
    took, worked = time.perf_counter() - began, time.process_time() - worked
    p99 = statistics.quantiles(waits, n=100)[98]
    rate, p50 = len(waits) / took, statistics.median(waits)
    return {"answers": len(waits), "rate": rate, "p50": p50, "p99": p99, "busy": worked / took}


def _request(*, streamed: bool) -> bytes:
    def body(text: str) -> bytes:
        message = {"role": "user", "content": text}
        return json.dumps({"model": MODEL, "stream": streamed, "messages": [message]}).encode()

    whole = body(WORDS[: REQUEST_BYTES - len(body(""))])
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer sk-bench\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(whole)}\r\n\r\n".encode() + whole


async def _asking(port: int, request: bytes, waits: list[float], pause: float, until: float) -> None:
    """Ask over one connection, kept alive, wait for the whole answer, and ask again. It parses no more than it must."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (began := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            msg = f"the server answered {head[:40]!r}"
            raise RuntimeError(msg)
        length = re.search(rb"content-length: (\d+)", head)
        await (reader.readuntil(b"\r\n0\r\n\r\n") if length is None else reader.readexactly(int(length[1])))
        waits.append(time.perf_counter() - began)
        if pause:
            # not in step with the others, nor with the writer
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
    writer.close()


if __name__ == "__main__":
    main()

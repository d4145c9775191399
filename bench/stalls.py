"""Measure what hostile inputs do to a service's event loop, processor and memory, bare and behind the library.

Every input is played twice, each time in a fresh process and without a server between: at a bare ASGI app that reads
the request and sends an answer, and at the same app behind ``CaptureMiddleware``. Stored rows are read back bare, as
they are, and through ``responses_app``. Senders wait for a queue of asyncio's, and for a writer whose flushes hang.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gzip
import itertools
import multiprocessing
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import msgspec

from bench.asgi.app import say
from bench.database import Database
from bench.memory import locked, trim
from bench.processes import peak_since, resident
from bench.traffic import record
from rwriter import CompletedRequest, RequestStore, RequestsWriter, use_key_pepper
from rwriter.asgi import CaptureMiddleware, responses_app
from rwriter.asgi._types import ASGIApp, Message, Receive, Scope, Send

KINDS: Final = ("bare", "captured")
DEADLINE: Final = 120.0
"""Seconds until one input is given up."""
TICK: Final = 0.001
PIECE: Final = 65_536
"""Bytes of a body that arrive at once, as a server hands them on."""
CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
MB: Final = 1_000_000
CAPACITY: Final = 10
"""Records in the buffer that senders wait for."""

encode: Final = msgspec.json.encode


class Call(msgspec.Struct, frozen=True):
    """An input: requests, ``times`` of them at once, and the pieces of the app's answer to each.

    ``withheld``: the request's end never arrives, and it has no key unless it is ``known``; the app refuses without
    reading. ``stored``: the bodies of a row that is read back by a ``GET`` with ``query``.
    ``senders``: so many wait for room, and are cancelled.
    """

    path: str = CHAT
    body: bytes = b'{"model":"m","stream":true,"messages":[]}'
    headers: tuple[tuple[bytes, bytes], ...] = ()
    answer: tuple[bytes, ...] = (b'{"object":"chat.completion","choices":[]}',)
    times: int = 1
    withheld: bool = False
    known: bool = False
    stored: tuple[str, str] | None = None
    query: str = ""
    senders: int = 0

    @property
    def size(self) -> int:
        """Return the bytes of all requests, answers and rows, or the number of senders."""
        stored = sum(map(len, self.stored or ()))
        return self.senders or self.times * (len(self.body) + sum(map(len, self.answer))) + stored


def _coded(body: bytes, codings: bytes) -> Call:
    return Call(body=body, headers=((b"content-encoding", codings),))


def _unfolding(size: int) -> bytes:
    """Return ``size`` bytes of JSON, compressed twice, without ever holding them."""
    once = zlib.compressobj(9, wbits=31)
    parts = [once.compress(b'{"input":"'), *(once.compress(b"a" * MB) for _ in range(size // MB)), once.compress(b'"}')]
    return gzip.compress(b"".join(parts) + once.flush())


def _streamed(*events: Any, path: str = CHAT, times: int = 1) -> Call:
    pieces = [b"data: " + encode(event) + b"\n\n" for event in events] * times
    return Call(path=path, answer=(*pieces, b"data: [DONE]\n\n"))


def _delta(delta: Any, **more: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **more}]}


def _tool_calls(number: int) -> Call:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    return _streamed(_delta({"tool_calls": [{"index": each, "id": f"c{each}", **call} for each in range(number)]}))


def _message(number: int, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": content}


def _response(items: int, text: str) -> dict[str, Any]:
    output = [_message(number, text) for number in range(items)]
    return {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": output}


def _completed(size: int, times: int) -> Call:
    event = {"type": "response.completed", "response": _response(1, "a" * (size // times))}
    return _streamed(event, path=RESPONSES, times=times)


def _logprobs(size: int) -> Call:
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    return _streamed(_delta({"content": "a"}, logprobs={"content": [token] * (size // len(encode(token)))}))


def _small_values(size: int, last: bytes = b"{}", **more: Any) -> bytes:
    return encode({"model": "m", **more})[:-1] + b',"input":[' + b'{"a":1},' * (size // 8) + last + b"]}"


def _items(size: int) -> str:
    return '{"input":[' + '"a",' * (size // 4) + '"a"]}'


def _read(query: str, request: str, response: Any) -> Call:
    return Call(body=b"", answer=(), stored=(request, encode(response).decode()), query=query)


INPUTS: Final[Mapping[str, Callable[[int], Call]]] = {
    "gzip within gzip, 256 MB": lambda part: _coded(_unfolding(256 * MB // part), b"gzip, gzip"),
    "gzip named 1,000 times": lambda part: _coded(Call().body, b",".join([b"gzip"] * (1_000 // part))),
    "1 MB of empty gzip members": lambda part: _coded(gzip.compress(b"") * (50_000 // part), b"gzip"),
    "10,000 tool calls in a chunk": lambda part: _tool_calls(10_000 // part),
    "40 large response.completed": lambda part: _completed(8 * MB // part, 40),
    "300,000 keys in a chunk": lambda part: _streamed(_delta({f"k{each}": "v" for each in range(300_000 // part)})),
    "one event of 8 MB": lambda part: _logprobs(8 * MB // part),
    "background, 8 MB of values": lambda part: Call(RESPONSES, _small_values(8 * MB // part, background=True)),
    "NaN at the end of 8 MB": lambda part: Call(RESPONSES, _small_values(8 * MB // part, b"NaN")),
    "40 bodies of 8 MB withheld": lambda part: Call(RESPONSES, b"a" * (8 * MB // part), times=40, withheld=True),
    "the same with a key": lambda part: Call(RESPONSES, b"a" * (8 * MB // part), times=40, withheld=True, known=True),
    "20,000 senders cancelled": lambda part: Call(senders=20_000 // part),
    "an item of a request of 8 MB": lambda part: _read(
        "/input_items?limit=1", _items(8 * MB // part), _response(1, "a")
    ),
    "20,000 items as a stream": lambda part: _read("?stream=true", "{}", _response(20_000 // part, "a" * 100)),
}
"""By name; the argument divides the size."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Take the choice of inputs."""
    parser.add_argument("--only", nargs="+", default=[], help="words; inputs whose names have one of them are played")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Play every input at every kind of service, each in a process of its own."""
    chosen = [name for name in INPUTS if not options.only or any(word in name for word in options.only)]
    found: dict[str, Any] = {name: {} for name in chosen}
    loop, part = asyncio.get_running_loop(), 10 if options.quick else 1
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        async with Database(url).tables():
            for name in chosen:
                for kind in KINDS:
                    found[name][kind] = await loop.run_in_executor(fresh, _in_a_process, url, name, kind, part)
    return {"inputs": found}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each input and kind of service."""
    head = ("longest stall, ms", "in CPU time, ms", "CPU, s", "peak memory, MB", "records")
    yield f"{'input':<30} {'bytes':>12} {'':<9}" + "".join(f"{name:>18}" for name in head)
    for name, kinds in result["inputs"].items():
        for kind, one in kinds.items():
            stalls = f"{one['stall_ms']:,.0f}", f"{one['busy_ms']:,.0f}"
            figures = (*stalls, f"{one['cpu_s']:.2f}", f"{one['grown_mb']:,.0f}", f"{one['records']}")
            yield f"{name:<30} {one['size']:>12,} {kind:<9}" + "".join(f"{figure:>18}" for figure in figures)


# -- one input, in its process


def _in_a_process(url: str, name: str, kind: str, part: int) -> dict[str, Any]:
    use_key_pepper("bench")  # each process would warn without one
    return asyncio.run(_played(Database(url), INPUTS[name](part), captured=kind == "captured"))


async def _played(database: Database, call: Call, *, captured: bool) -> dict[str, Any]:
    capacity: dict[str, Any] = {"channel_capacity": CAPACITY} if call.senders else {}
    async with (
        database.engines(3) as engines,
        RequestsWriter(engines, drain_timeout=DEADLINE, **capacity) as writer,
        asyncio.timeout(DEADLINE),
        contextlib.AsyncExitStack() as stack,
    ):
        row = record(*(call.stored or ("{}", "{}")))
        await writer.send(row, wait="committed")  # warms the connection and its statements, too
        given, store, before = writer if captured else None, RequestStore(engines), writer.stats.persisted
        if call.senders:
            if captured:
                await stack.enter_async_context(locked(database))
            work = functools.partial(_cancel, await _waiting(call.senders, given))
        elif call.stored is not None:
            app: Any = responses_app(store, writer=writer, attribute=_owner) if captured else _as_stored(store, row)
            work = functools.partial(_ask, app, call, f"{RESPONSES}/resp_{row.request_id}", method="GET")
        else:
            work = functools.partial(_ask_all, call, given)
        figures = await _measured(work)
        return {"size": call.size, **figures, "records": writer.stats.persisted - before}


async def _measured(work: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Return the longest stall of the loop during ``work``, the process's CPU time, and the growth of its memory.

    ``busy_ms`` is the longest stall in CPU time of the process: what is left of it where nothing else runs.
    """
    trim()
    before, cpu, grown = resident(), time.process_time(), peak_since()
    ticks = [_now()]
    ticker = asyncio.create_task(_tick(ticks), name="bench-ticker")
    await asyncio.sleep(TICK * 20)
    ticks.append(_now())
    await work()
    await asyncio.sleep(TICK * 20)
    ticker.cancel()
    stalls = [(late[0] - early[0] - TICK, late[1] - early[1]) for early, late in itertools.pairwise(ticks[1:])]
    used = time.process_time() - cpu
    longest = {"stall_ms": max(wall for wall, _ in stalls) * 1_000, "busy_ms": max(map(min, stalls)) * 1_000}
    return {**longest, "cpu_s": used, "grown_mb": max(0, grown() - before) / MB}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


async def _tick(ticks: list[tuple[float, float]]) -> None:
    while True:
        await asyncio.sleep(TICK)
        ticks.append(_now())


def _owner(_key: str, _scope: Scope) -> str:
    return "bench"


# -- requests


async def _ask_all(call: Call, writer: RequestsWriter | None) -> None:
    bare = functools.partial(_serve, call)
    if writer is None:
        await asyncio.gather(*(_ask(bare, call, call.path) for _ in range(call.times)))
        return
    captured = CaptureMiddleware(bare, writer, attribute=_owner, drain_timeout=DEADLINE)
    await asyncio.gather(*(_ask(captured, call, call.path) for _ in range(call.times)))
    await captured.aclose()
    await writer.flush(DEADLINE)


async def _serve(call: Call, _scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that was read whole, or refuse it unread."""
    more = not call.withheld
    while more:
        more = (await receive()).get("more_body", False)
    await say(send, call.answer, 401 if call.withheld else 200)


def _as_stored(store: RequestStore, row: CompletedRequest) -> ASGIApp:
    """Return an app that sends a row's two bodies as they are."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        found: Any = await store.get_request(row.request_id)
        await say(send, (found.body.encode(), found.response_body.encode()))

    return app


async def _ask(app: Any, call: Call, path: str, *, method: str = "POST") -> None:
    """Send a request to ``app`` piece by piece, and close the connection when the answer is there."""
    statuses: list[int] = []
    answered, sent = asyncio.Event(), iter(range(0, max(1, len(call.body)), PIECE))

    async def receive() -> Message:
        start = next(sent, None)
        if start is None:
            await answered.wait()
            return {"type": "http.disconnect"}
        # a copy, as every connection has its own bytes
        piece = bytes(bytearray(call.body[start : start + PIECE]))
        return {"type": "http.request", "body": piece, "more_body": call.withheld or start + PIECE < len(call.body)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        elif not message.get("more_body"):
            answered.set()

    path, _, query = f"{path}{call.query}".partition("?")
    key = [] if call.withheld and not call.known else [(b"authorization", b"Bearer sk-bench")]
    headers = [*key, (b"content-type", b"application/json"), *call.headers]
    named = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
    await app(named | {"headers": headers, "query_string": query.encode(), "root_path": "", "state": {}}, receive, send)
    if statuses[0] not in ((401,) if call.withheld else (200, 202)):
        msg = f"{path} was answered {statuses[0]}"
        raise RuntimeError(msg)


# -- senders


async def _waiting(number: int, writer: RequestsWriter | None) -> list[asyncio.Task[Any]]:
    """Start senders that wait for room in ``writer``, or in a queue of asyncio's."""
    queue: asyncio.Queue[Any] = asyncio.Queue(CAPACITY)
    put = queue.put if writer is None else writer.send
    tasks = [asyncio.create_task(put(record("{}", "{}"))) for _ in range(number)]
    await asyncio.sleep(0.1)
    return tasks


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in reversed(tasks):
        task.cancel()
    await asyncio.wait(tasks)

"""``python -m bench.asgi``: what ``CaptureMiddleware`` costs a small app under uvicorn, on loopback.

The app has four servers, each a process of its own: without the middleware, with it and ``durability="memory"``, with
``"journal"``, and with a database that refuses connections while the spool takes its place. One client, a process too,
asks them in turns, in another order each round: an answer of 4,000 bytes to 2,000 asked, and one streamed in 50 chunks.
Over many connections at once for the rate; at a steady pace that leaves the processor half idle, as a gateway's clients
do, for the time that an answer takes; and over a single connection that asks again at once, where a record's storing
takes its processor time out of the next answer's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from bench.asgi_client import Turn
from bench.database import Database, server
from bench.report import machine, summary

KINDS: Final = ("off", "memory", "journal", "down")
SHAPES: Final = ("plain", "stream")
LOADS: Final = {"16 connections": (16, 0.0), "200 a second": (4, 0.02), "1 connection": (1, 0.0)}
"""How many connections ask, and how many seconds each waits before it asks again."""
ROUNDS: Final = 5
SECONDS: Final = 1.5
"""Of each turn: every kind, shape and load has one in each round."""
DEADLINE: Final = 60.0

Rounds = dict[tuple[str, str, str], list[Turn]]
"""By kind, shape and load."""


def main() -> None:
    """Print the medians of every kind, shape and load."""
    parser = argparse.ArgumentParser(prog="python -m bench.asgi", description="The middleware under uvicorn.")
    parser.add_argument("--database-url", help="a server of your own; schema rwriter_bench is replaced in it")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    options = parser.parse_args()
    seconds, rounds = (SECONDS / 4, 2) if options.quick else (SECONDS, ROUNDS)
    with server(options.database_url) as url:
        found = asyncio.run(_measure(url, seconds, rounds))
    print(*_lines(found, rounds, seconds), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(_figures(found), indent=2) + "\n")


# -- the measurement


async def _measure(url: str, seconds: float, rounds: int) -> Rounds:
    database, found = Database(url), Rounds()
    with contextlib.ExitStack() as processes:
        async with database.tables():
            ports = {kind: processes.enter_context(_server(kind, url)) for kind in KINDS}
            client = processes.enter_context(_client())
            for number in range(rounds + 1):
                await database.empty()
                turn = number % len(KINDS)
                stored = 0
                for kind in KINDS[turn:] + KINDS[:turn]:
                    turns = {(kind, *how): client(ports[kind], how[0], *LOADS[how[1]], seconds) for how in _ways()}
                    answers = sum(one.answers for one in turns.values())
                    stored += _settled(ports[kind], kind, answers)
                    if number > 0:  # the first warms connections, statements, files and interpreters
                        for which, one in turns.items():
                            found.setdefault(which, []).append(one)
                await database.verify(stored)
            processes.close()  # before the tables go
    return found


def _ways() -> list[tuple[str, str]]:
    return [(shape, load) for shape in SHAPES for load in LOADS]


def _settled(port: int, kind: str, answers: int) -> int:
    """Wait until the server has nothing left to write; how many of ``answers`` should be rows."""
    give_up = time.monotonic() + DEADLINE
    while (state := _state(port))["pending"]:
        if time.monotonic() > give_up:
            msg = f"{kind}: {state['pending']} records are still pending"
            raise TimeoutError(msg)
        time.sleep(0.02)
    if kind != "off" and state["recorded"] != answers:
        msg = f"{kind}: {answers} answers, {state['recorded']} of them in the writer or dropped: {state}"
        raise AssertionError(msg)
    return answers if kind in {"memory", "journal"} else 0


def _state(port: int) -> dict[str, int]:
    """What the server says of itself since it was last asked."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=DEADLINE) as answer:
        state: dict[str, int] = json.loads(answer.read())
        return state


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def _server(kind: str, url: str) -> Iterator[int]:
    with _process("bench.asgi_app", kind, url) as process:
        yield int(_line_of(process.stdout))


@contextlib.contextmanager
def _client() -> Iterator[Callable[..., Turn]]:
    with _process("bench.asgi_client") as process:

        def ask(*order: object) -> Turn:
            print(json.dumps(order), file=process.stdin, flush=True)
            return msgspec.json.decode(_line_of(process.stdout), type=Turn)

        yield ask


def _line_of(stream: IO[str] | None) -> str:
    line = "" if stream is None else stream.readline()
    if not line:
        msg = "a process of the measurement ended before its time"
        raise RuntimeError(msg)
    return line


# -- the report


def _lines(found: Rounds, rounds: int, seconds: float) -> Iterator[str]:
    yield f"{rounds} rounds of {seconds:g} s a turn, medians; differences and ratios to `off` in the same round"
    for shape, load in _ways():
        yield f"{shape}, {load}"
        for kind in KINDS:
            turns, off = found[kind, shape, load], found["off", shape, load]
            ratio = statistics.median(one.rate / other.rate for one, other in zip(turns, off, strict=True))
            slower = [statistics.median(_differences(turns, off, name)) for name in ("p50", "p99")]
            yield (
                f"  {kind:8} {_median(turns, 'rate'):8,.0f}/s  {ratio:.2f} of off   "
                f"p50 {_median(turns, 'p50') * 1e6:7,.0f} us ({slower[0] * 1e6:+,.0f})   "
                f"p99 {_median(turns, 'p99') * 1e6:7,.0f} us ({slower[1] * 1e6:+,.0f})   "
                f"client {_median(turns, 'busy'):.0%} busy"
            )


def _median(turns: list[Turn], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in turns))


def _differences(turns: list[Turn], off: list[Turn], name: str) -> list[float]:
    return [getattr(one, name) - getattr(other, name) for one, other in zip(turns, off, strict=True)]


def _figures(found: Rounds) -> dict[str, Any]:
    names = ("rate", "p50", "p99", "busy")
    return {
        "machine": machine(),
        "turns": [
            {"kind": kind, "shape": shape, "load": load}
            | {name: summary([getattr(one, name) for one in turns]) for name in names}
            for (kind, shape, load), turns in found.items()
        ],
    }


if __name__ == "__main__":
    main()

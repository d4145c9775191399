"""Measure what ``CaptureMiddleware`` costs a small app under uvicorn, on loopback.

The app has four servers, each a process of its own: without the middleware, with it and ``durability="memory"``, with
``"journal"``, and with a database that refuses connections while the spool takes its place. One client, a process too,
asks them in turns, in another order each round: an answer of 4,000 bytes to 2,000 asked, and one streamed in 50 chunks.
Over many connections at once for the rate; at a steady pace that leaves the processor half idle, as a gateway's clients
do, for the time that an answer takes; and over a single connection that asks again at once, where a record's storing
takes its processor time out of the next answer's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from bench.asgi.client import Turn
from bench.database import Database
from bench.processes import Worker, worker
from bench.report import ratios, rotated, summary

KINDS: Final = ("off", "memory", "journal", "down")
SHAPES: Final = ("plain", "stream")
LOADS: Final = {"16 connections": (16, 0.0), "200 a second": (4, 0.02), "1 connection": (1, 0.0)}
"""The number of connections that ask, and the seconds that each waits before it asks again."""
ROUNDS: Final = 5
SECONDS: Final = 1.5
"""The length of a turn: every kind, shape and load has one in each round."""
DEADLINE: Final = 60.0

Rounds = dict[tuple[str, str, str], list[Turn]]
"""By kind, shape and load."""


# -- the measurement


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take the turns of every kind, shape and load in each round, and count the rows after it."""
    seconds = SECONDS / 4 if options.quick else SECONDS
    database, found = Database(url), Rounds()
    with contextlib.ExitStack() as processes:
        async with database.tables():
            servers = {kind: processes.enter_context(worker("-m", "bench.asgi.app", kind, url)) for kind in KINDS}
            ports = {kind: server.answer() for kind, server in servers.items()}
            client = processes.enter_context(worker("-m", "bench.asgi.client"))
            for number in range(options.rounds + 1):
                await database.empty()
                stored = 0
                for kind in rotated(KINDS, number):
                    turns = {way: _turn(client, ports[kind], *way, seconds) for way in _ways()}
                    stored += _settled(ports[kind], kind, sum(one.answers for one in turns.values()))
                    if number > 0:  # the first warms connections, statements, files and interpreters
                        for way, one in turns.items():
                            found.setdefault((kind, *way), []).append(one)
                await database.verify(stored)
            processes.close()  # before the tables go
    return {"seconds": seconds, "turns": [_figures(found, *key) for key in found]}


def _turn(client: Worker, port: int, shape: str, load: str, seconds: float) -> Turn:
    return msgspec.convert(client.ask((port, shape, *LOADS[load], seconds)), Turn)


def _ways() -> list[tuple[str, str]]:
    return [(shape, load) for shape in SHAPES for load in LOADS]


def _settled(port: int, kind: str, answers: int) -> int:
    """Wait until the server has nothing left to write; returns how many of ``answers`` should be rows."""
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
    """Return the server's account since it was last asked."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=DEADLINE) as answer:
        state: dict[str, int] = json.loads(answer.read())
        return state


# -- the report


def _figures(found: Rounds, kind: str, shape: str, load: str) -> dict[str, Any]:
    turns, off = found[kind, shape, load], found["off", shape, load]
    values = {name: [getattr(one, name) for one in turns] for name in ("rate", "p50", "p99", "busy")}
    added = {
        f"{name}_added": summary(one - getattr(other, name) for one, other in zip(values[name], off, strict=True))
        for name in ("p50", "p99")
    }
    medians = {name: summary(each) for name, each in values.items()}
    ratio = ratios(values["rate"], [one.rate for one in off])
    return {"kind": kind, "shape": shape, "load": load, "ratio": ratio, **medians, **added}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the medians of every kind, shape and load."""
    yield f"{result['seconds']:g} s a turn, medians; differences and ratios to `off` in the same round"
    for shape, load in _ways():
        yield f"{shape}, {load}"
        same = {one["kind"]: one for one in result["turns"] if (one["shape"], one["load"]) == (shape, load)}
        for kind in KINDS:
            found = {name: each["median"] for name, each in same[kind].items() if isinstance(each, dict)}
            late = "   ".join(
                f"{name} {found[name] * 1e6:7,.0f} us ({found[f'{name}_added'] * 1e6:+,.0f})" for name in ("p50", "p99")
            )
            rate = f"{found['rate']:8,.0f}/s  {found['ratio']:.2f} of off"
            yield f"  {kind:8} {rate}   {late}   client {found['busy']:.0%} busy"

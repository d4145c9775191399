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
import itertools
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.database import Database
from bench.processes import worker
from bench.report import compared, in_rounds, summary

KINDS: Final = ("off", "memory", "journal", "down")
SHAPES: Final = ("plain", "stream")
LOADS: Final = {"16 connections": (16, 0.0), "200 a second": (4, 0.02), "1 connection": (1, 0.0)}
"""The number of connections that ask, and the seconds that each waits before it asks again."""
ROUNDS: Final = 5
SECONDS: Final = 1.5
"""The length of a turn: every kind, shape and load has one in each round."""
DEADLINE: Final = 60.0

Way = tuple[str, str]
WAYS: Final[list[Way]] = list(itertools.product(SHAPES, LOADS))


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take the turns of every kind, shape and load in each round, and count the rows after each kind's."""
    seconds = SECONDS / 4 if options.quick else SECONDS
    database, recorded = Database(url), dict.fromkeys(KINDS, 0)

    async def turn(kind: str) -> dict[Way, dict[str, float]]:
        await database.empty()
        turns = {way: client.ask((ports[kind], way[0], *LOADS[way[1]], seconds)) for way in WAYS}
        answers = sum(one["answers"] for one in turns.values())
        recorded[kind] += answers
        _settled(ports[kind], kind, recorded[kind])
        await database.verify(answers if kind in {"memory", "journal"} else 0)
        return turns

    with contextlib.ExitStack() as processes:
        async with database.tables():
            servers = {kind: processes.enter_context(worker("-m", "bench.asgi.app", kind, url)) for kind in KINDS}
            ports = {kind: server.answer() for kind, server in servers.items()}
            client = processes.enter_context(worker("-m", "bench.asgi.client"))
            found = await in_rounds(KINDS, options.rounds, turn)
            processes.close()  # before the tables go
    return {"seconds": seconds, "ways": [_way(way, found) for way in WAYS]}


def _settled(port: int, kind: str, expected: int) -> None:
    """Wait until the server has nothing left to write, and require that it has written ``expected`` records."""
    give_up = time.monotonic() + DEADLINE
    while (state := _state(port))["pending"]:
        if time.monotonic() > give_up:
            msg = f"{kind}: {state['pending']} records are still pending"
            raise TimeoutError(msg)
        time.sleep(0.02)
    if kind != "off" and state["recorded"] != expected:
        msg = f"{kind}: {expected} answers, {state['recorded']} of them written: {state}"
        raise AssertionError(msg)


def _state(port: int) -> dict[str, int]:
    """Return the server's account."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=DEADLINE) as answer:
        state: dict[str, int] = json.loads(answer.read())
        return state


def _way(way: Way, found: Mapping[str, Sequence[Mapping[Way, Any]]]) -> dict[str, Any]:
    """Return the figures of every kind in one shape and load, and what each adds to ``off`` in the same round."""
    turns = {kind: [each[way] for each in rounds] for kind, rounds in found.items()}
    kinds = compared(turns, "off")
    for kind, rounds in turns.items():
        for name in ("p50", "p99"):
            pairs = zip(rounds, turns["off"], strict=True)
            kinds[kind][f"{name}_added"] = summary(one[name] - off[name] for one, off in pairs)
    return {"shape": way[0], "load": way[1], "kinds": kinds}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the medians of every kind, shape and load."""
    yield f"{result['seconds']:g} s a turn, medians; differences and ratios to `off` in the same round"
    for way in result["ways"]:
        yield f"{way['shape']}, {way['load']}"
        for kind, figures in way["kinds"].items():
            found = {name: each["median"] for name, each in figures.items()}
            late = "   ".join(
                f"{name} {found[name] * 1e6:7,.0f} us ({found[f'{name}_added'] * 1e6:+,.0f})" for name in ("p50", "p99")
            )
            rate = f"{found['rate']:8,.0f}/s  {found['ratio']:.2f} of off"
            yield f"  {kind:8} {rate}   {late}   client {found['busy']:.0%} busy"

"""Run the original, in Rust, in turns with this writer: the same bodies, on its tables and on ours.

The original is the crate `fusillade`, driven by the loop of its service: a channel of 10,000, one consumer, what is
queued up to a batch in one transaction. Each round starts fresh processes of all peers, which store the same records
point by point, one after the other, in another order each time. Ratios are a peer's figure over the original's on its
own tables, within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url

from bench.against import Turn, take_turn
from bench.database import Database, own_database
from bench.processes import Worker, worker
from bench.report import ratios, rotated, spread, summary
from bench.traffic import Traffic
from rwriter import migrate

ROUNDS: Final = 5
FOLDER: Final = Path(__file__).with_name("rust")
PROGRAM: Final = "rwriter-bench-original"
WORKER: Final = Path(__file__).with_name("against_worker.py")

BODIES: Final = 2_000
BATCHES: Final = {1: 0.3, 10: 0.7, 100: 1.5, 500: 3.0}
"""Batch sizes, each with its share of the records."""
PATHS: Final = {"insert": 1.0, "update": 0.5}
PACE: Final = 300.0
"""Records a second of the paced point, in batches of up to a hundred."""
PACED_SECONDS: Final = 4.0
WARM_UP: Final = 0.2

MEASURES: Final = ("rate", "cpu_us", "server_us", "both_us", "wal_bytes")
"""Records a second; processor time of client, server and both, in microseconds a record; bytes of WAL a record."""

ORIGINAL: Final = "original"
ONE_FLUSH: Final = {"flush_concurrency": 1, "linger": 0.0}
"""The original's loop."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """Who stores, on whose tables; ``options`` of this writer, ``None`` for the original."""

    tables: str
    options: Mapping[str, Any] | None = None


PEERS: Final = {
    ORIGINAL: Peer("original"),
    "original, our tables": Peer("ours"),
    "one flush, its tables": Peer("original", ONE_FLUSH),
    "one flush, our tables": Peer("ours", ONE_FLUSH),
    "defaults, our tables": Peer("ours", {}),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Take the size of a run."""
    parser.add_argument("--records", type=int, default=3_000, help="in a full turn (default %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="POINT", help="such as 'insert, 1' or 'paced' (default: all)")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Build the original, run the rounds and return each point's figures and ratios."""
    program = await _built()
    orders = {name: order for name, order in _orders(options).items() if name in (options.only or [name])}
    bodies = Traffic().bodies(BODIES)
    with tempfile.TemporaryDirectory(prefix="rwriter-bench-") as folder:
        file = Path(folder) / "bodies.json"
        file.write_text(json.dumps(bodies))
        async with _databases(url, program, file) as databases:
            found = []
            for number in range(options.rounds):
                found.append(await _round(databases, program, file, orders, number))
                print(f"round {number + 1} of {options.rounds}", flush=True)
    return {"records": options.records, "points": {name: _point([each[name] for each in found]) for name in orders}}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield for each point a line of each peer: medians, and the ratios to the original with their spread."""
    for point, peers in result["points"].items():
        yield f"\n{point}"
        for name, figures in peers.items():
            yield f"  {name:<22} " + "  ".join(_cell(figures, measure) for measure in MEASURES if measure in figures)


def _cell(figures: Mapping[str, Any], measure: str) -> str:
    return f"{measure} {figures[measure]['median']:,.0f} = {spread(figures[f'{measure} ratio'])}"


def _orders(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    records = options.records // 8 if options.quick else options.records
    orders: dict[str, dict[str, Any]] = {}
    for path, batch in itertools.product(PATHS, BATCHES):
        count = max(batch, int(records * PATHS[path] * BATCHES[batch]))
        warm_up = max(batch, int(count * WARM_UP))
        orders[f"{path}, {batch}"] = {"path": path, "batch": batch, "records": count, "warm_up": warm_up}
    paced = int(PACE * PACED_SECONDS) // (4 if options.quick else 1)
    orders["paced"] = {"path": "insert", "batch": 100, "records": paced, "warm_up": 100, "rate": PACE}
    return orders


# -- the original's program, and the tables


async def _built() -> Path:
    """Have cargo build the program, which takes minutes the first time. Raises ``SystemExit`` where it cannot."""
    cargo = shutil.which("cargo")
    if cargo is None:
        msg = "the original is built by cargo, which is not on the PATH: install Rust, or leave this command out"
        raise SystemExit(msg)
    manifest = str(FOLDER / "Cargo.toml")
    arguments = ("build", "--release", "--locked", "--manifest-path", manifest)
    building = await asyncio.create_subprocess_exec(cargo, *arguments)
    if await building.wait():
        msg = "cargo could not build the original"
        raise SystemExit(msg)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or FOLDER / "target")
    return target / "release" / PROGRAM


@contextlib.asynccontextmanager
async def _databases(url: str, program: Path, bodies: Path) -> AsyncIterator[dict[str, Database]]:
    """Yield a database with the original's tables, which this writer has adopted, and one with ours."""
    async with contextlib.AsyncExitStack() as stack:
        databases = {}
        for name in ("original", "ours"):
            own = await stack.enter_async_context(own_database(url, f"rwriter_bench_{name}"))
            if name == "original":
                with _started(Peer(name), program, own, bodies, tables="make"):
                    await migrate.adopt(own)
            else:
                await migrate.upgrade(own)
            databases[name] = Database(own, "public")
            stack.push_async_callback(databases[name].dispose)
        yield databases


@contextlib.contextmanager
def _started(peer: Peer, program: Path, url: str, bodies: Path, *, tables: str = "use") -> Iterator[Worker]:
    arguments = (make_url(url).set(drivername="postgresql").render_as_string(hide_password=False), str(bodies), tables)
    environment = {"PYTHONPATH": str(FOLDER.parent.parent)}
    command = worker("-P", str(WORKER), *arguments, environment=environment)
    if peer.options is None:
        command = worker(*arguments, program=str(program))
    with command as started:
        started.answer()
        yield started


# -- a round


async def _round(
    databases: Mapping[str, Database], program: Path, bodies: Path, orders: Mapping[str, Any], number: int
) -> dict[str, dict[str, Turn]]:
    found: dict[str, dict[str, Turn]] = {}
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(_started(peer, program, databases[peer.tables].url, bodies))
            for name, peer in PEERS.items()
        }
        for index, (point, order) in enumerate(orders.items()):
            turns = {}
            for name in rotated(PEERS, index + number):
                peer = PEERS[name]
                turns[name] = await _turn(workers[name], databases[peer.tables], order | (peer.options or {}))
            found[point] = {name: turns[name] for name in PEERS}
    return found


async def _turn(process: Worker, database: Database, order: Mapping[str, Any]) -> Turn:
    turn = await take_turn(process, database, order)
    return turn | {"both_us": turn["server_us"] + turn["cpu_us"]} if "server_us" in turn else turn


def _point(turns: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    names = turns[0][ORIGINAL]
    yardstick = {name: [each[ORIGINAL][name] for each in turns] for name in names}
    return {
        peer: {
            **{name: summary([each[peer][name] for each in turns]) for name in names},
            **{f"{name} ratio": ratios([each[peer][name] for each in turns], yardstick[name]) for name in names},
        }
        for peer in turns[0]
    }

"""Run the writer of another checkout in turns with this one: is a change slower than what was there before it?

Each round starts two fresh processes, one with each checkout first on its path, each with a database that its own
migrations made. They store the same bodies, point by point, one after the other, in the opposite order at the next
point and in the next round. The ratios are this checkout's figure over the other's, within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.database import Database, own_database, used
from bench.processes import Worker, worker
from bench.report import ratios, spread, summary
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, Traffic

ROUNDS: Final = 8
ROOT: Final = Path(__file__).parent.parent
WORKER: Final = Path(__file__).with_name("against_worker.py")

BATCHES: Final = {1: 0.3, 10: 0.7, 100: 1.5, 500: 3.0}
"""Batch sizes, each with its share of the records: small batches take longer, and a large one's last runs alone."""
PATHS: Final = {"insert": 1.0, "update": 0.5}
"""``update``: rows begun by ``create_realtime``. Beginning them takes longer than the turn: half the records."""
BODIES: Final = 2_000
WARM_UP: Final = 0.2

MEASURES: Final = ("rate", "cpu_us", "server_us", "wal_bytes")
"""Records a second; processor time of client and server, in microseconds a record; bytes of WAL a record."""

Turn = dict[str, float]
Round = dict[str, dict[str, Turn]]
"""By point, then ``this`` or ``other``."""


@dataclasses.dataclass(frozen=True)
class Side:
    """A checkout and its database; ``url`` is the database's, for the worker."""

    tree: Path
    url: str
    database: Database


def add_options(parser: argparse.ArgumentParser) -> None:
    """Take the other checkout."""
    parser.add_argument("other", help="a folder with another checkout, or a revision of this repository")
    parser.add_argument("--records", type=int, default=4_000, help="in a full turn (default %(default)s)")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds and return each point's figures and ratios."""
    records = options.records // 8 if options.quick else options.records
    bodies = Traffic().bodies(BODIES, request_bytes=REQUEST_BYTES, response_bytes=RESPONSE_BYTES)
    with _checkout(options.other) as other, tempfile.TemporaryDirectory(prefix="rwriter-bench-") as folder:
        file = Path(folder) / "bodies.json"
        file.write_text(json.dumps(bodies))
        async with _sides(url, {"this": ROOT, "other": other}) as sides:
            found: list[Round] = []
            for number in range(options.rounds):
                found.append(await _round(sides, file, records, number))
                print(f"round {number + 1} of {options.rounds}", flush=True)
    return {"other": options.other, "records": records, "points": _figures(found)}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each measure of each point: the ratio with its spread, then both medians."""
    yield f"\nthis checkout / {result['other']}: median [least .. most] within a round; then both medians"
    for point, figures in result["points"].items():
        for name in MEASURES:
            if name in figures["ratios"]:
                this, other = (figures[side][name]["median"] for side in ("this", "other"))
                yield f"  {point:<12} {name:<10} {spread(figures['ratios'][name])}   {this:10,.1f} {other:10,.1f}"


# -- the two checkouts


@contextlib.contextmanager
def _checkout(named: str) -> Iterator[Path]:
    """Yield the folder ``named``, or a throw-away copy of the revision ``named``."""
    if (Path(named) / "rwriter").is_dir():
        yield Path(named).resolve()
        return
    command = ["git", "-C", str(ROOT), "archive", named]
    packed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603 -- the caller's own revision
    with tempfile.TemporaryDirectory(prefix="rwriter-bench-") as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


@contextlib.contextmanager
def _started(side: Side, bodies: Path) -> Iterator[Worker]:
    # -P: this folder's modules are not for the worker; PYTHONPATH comes before an installed rwriter
    with worker("-P", str(WORKER), side.url, str(bodies), environment={"PYTHONPATH": str(side.tree)}) as started:
        package = Path(started.answer())
        if not package.is_relative_to(side.tree):
            msg = f"the worker of {side.tree} imported {package}"
            raise RuntimeError(msg)
        yield started


@contextlib.asynccontextmanager
async def _sides(url: str, trees: Mapping[str, Path]) -> AsyncIterator[dict[str, Side]]:
    """Give each checkout a database of its own, dropped at the end."""
    async with contextlib.AsyncExitStack() as stack:
        sides = {}
        for name, tree in trees.items():
            own = await stack.enter_async_context(own_database(url, f"rwriter_bench_{name}"))
            sides[name] = Side(tree, own, Database(own, "public"))
            stack.push_async_callback(sides[name].database.dispose)
        yield sides


# -- a round


async def _round(sides: Mapping[str, Side], bodies: Path, records: int, number: int) -> Round:
    found: Round = {}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_started(side, bodies)) for name, side in sides.items()}
        for index, (path, batch) in enumerate(itertools.product(PATHS, BATCHES)):
            count = max(batch, int(records * PATHS[path] * BATCHES[batch]))
            order = {"path": path, "batch": batch, "records": count, "warm_up": max(batch, int(count * WARM_UP))}
            names = sorted(sides, reverse=(index + number) % 2 == 0)
            found[f"{path}, {batch}"] = {
                name: await take_turn(workers[name], sides[name].database, order) for name in names
            }
    return found


async def take_turn(process: Worker, database: Database, order: Mapping[str, Any]) -> Turn:
    """Have a worker store what ``order`` says into empty tables, and return the rate and the costs of a record."""
    count = order["records"]
    await database.execute("TRUNCATE requests, request_templates CASCADE")
    process.ask(order)
    await database.checkpoint()
    wal, server = await database.wal_position(), await database.processor_times()
    took = process.ask("go")
    wal = await database.wal_position() - wal
    seconds = used(server, await database.processor_times())
    process.ask("close")
    await database.verify(order["warm_up"] + count)
    turn = {"rate": count / took["seconds"], "cpu_us": took["cpu"] / count * 1e6, "wal_bytes": wal / count}
    return turn if seconds is None else turn | {"server_us": seconds / count * 1e6}


def _figures(rounds: Sequence[Round]) -> dict[str, Any]:
    return {point: _point([each[point] for each in rounds]) for point in rounds[0]}


def _point(turns: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    names = [name for name in MEASURES if all(name in turn for turn in turns[0].values())]
    sides = {side: {name: summary([each[side][name] for each in turns]) for name in names} for side in turns[0]}
    found = {name: ratios(*([each[side][name] for each in turns] for side in ("this", "other"))) for name in names}
    return {**sides, "ratios": found}

"""``python -m bench``: records a second from ``send`` to commit, beside two peers in the same run.

Peers take turns, in another order each round, on the same bodies, tables and connection settings; what counts is
their ratio within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench import peers, report
from bench.database import Database, Stored, server
from bench.peers import BATCH, DEFAULT_CONCURRENCY, Peer
from bench.report import Rates, Ratio
from bench.traffic import REQUEST_BYTES, RESPONSE_BYTES, Bodies, Traffic, records

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"

ORM_GOAL: Final = 8.0
COPY_GOAL: Final = 0.7

CONCURRENCIES: Final = sorted({1, DEFAULT_CONCURRENCY})
"""Flushes in flight, and connections of the COPY beside them."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One peer in one round: records a second, and what the tables said afterwards."""

    rate: float
    connections: int
    stored: Stored


def main() -> None:
    """Parse the options, run, print, and write the JSON."""
    options = _options()
    with server(options.database_url) as url:
        result = asyncio.run(_measure(url, rounds=options.rounds, count=options.records))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{options.json} holds every figure.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Throughput beside its peers, in one run.")
    parser.add_argument(
        "--database-url", help="a server of your own (default: an embedded one); schema rwriter_bench is replaced in it"
    )
    parser.add_argument("--rounds", type=int, help="measured rounds after the warm-up (default 5)")
    parser.add_argument("--records", type=int, help="records a round (default 10,000; a tenth of that for the ORM)")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 3 rounds of 2,000 records")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go (default %(default)s)")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.records = options.records or (2_000 if options.quick else 10_000)
    return options


async def _measure(url: str, *, rounds: int, count: int) -> dict[str, Any]:
    database = Database(url)
    bodies = Traffic().bodies(count)
    print(f"{rounds} rounds of {count:,} records, {REQUEST_BYTES:,} + {RESPONSE_BYTES:,} bytes, batches of {BATCH}")
    async with database.tables(), _opened(database) as everyone:
        await _round(database, everyone, bodies[: max(10 * BATCH, count // 5)])
        found = [await _round(database, _rotated(everyone, number), bodies) for number in range(rounds)]
        settings = await database.settings()
    ratios, rates = _ratios(), [{name: figure.rate for name, figure in one.items()} for one in found]
    _print(ratios, rates)
    _print_conditions(settings, found[-1])
    run = {"records": count, "batch": BATCH, "request_bytes": REQUEST_BYTES, "response_bytes": RESPONSE_BYTES}
    last = {name: dataclasses.asdict(figure) for name, figure in found[-1].items()}
    return report.as_json(ratios, rates, {"run": run, "server": settings, "last_round": last})


@contextlib.asynccontextmanager
async def _opened(database: Database) -> AsyncIterator[list[Peer]]:
    async with contextlib.AsyncExitStack() as stack:
        pairs = [kind(database, n) for n in CONCURRENCIES for kind in (peers.writer, peers.copy)]
        yield [await stack.enter_async_context(peer) for peer in (*pairs, peers.orm(database))]


async def _round(database: Database, everyone: Sequence[Peer], bodies: Sequence[Bodies]) -> dict[str, Figure]:
    return {peer.name: await _timed(database, peer, bodies[: int(len(bodies) * peer.share)]) for peer in everyone}


async def _timed(database: Database, peer: Peer, bodies: Sequence[Bodies]) -> Figure:
    await database.empty()
    work = peer.work(records(bodies))
    gc.collect()
    started = time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    return Figure(len(bodies) / seconds, peer.connections, await database.verify(len(bodies)))


def _rotated(everyone: Sequence[Peer], by: int) -> list[Peer]:
    by %= len(everyone)
    return [*everyone[by:], *everyone[:by]]


def _ratios() -> list[Ratio]:
    default = peers.writer_name(DEFAULT_CONCURRENCY)
    beside_copy = [
        Ratio(peers.writer_name(n), peers.copy_name(n), goal=COPY_GOAL if n == DEFAULT_CONCURRENCY else None)
        for n in CONCURRENCIES
    ]
    return [Ratio(default, peers.ORM, goal=ORM_GOAL), *beside_copy, Ratio(default, peers.writer_name(1))]


def _print(ratios: list[Ratio], rates: list[Rates]) -> None:
    print("\nratios: median [each round]", *report.ratio_lines(ratios, rates), sep="\n")
    print("\nrecords/s on this machine: median [least .. most]", *report.rate_lines(rates), sep="\n")


def _print_conditions(settings: dict[str, str], figures: dict[str, Figure]) -> None:
    stored = {name: figure.stored for name, figure in figures.items()}
    body = stored[peers.writer_name(DEFAULT_CONCURRENCY)]
    print(
        f"\nPostgreSQL {settings['server_version']}, fsync {settings['fsync']}, synchronous_commit "
        f"{settings['synchronous_commit']}; response bodies on disk: {body.compression or 'uncompressed'}, "
        f"{body.stored_fraction:.2f} of their size",
        "records a transaction: "
        + "; ".join(f"{name} {one.rows / one.transactions:g}" for name, one in stored.items()),
        sep="\n",
    )


if __name__ == "__main__":
    main()

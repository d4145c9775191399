"""Measure what ``ledger=True`` costs beside ``ledger=False``: rate, processor time, WAL and disk a record.

The batch size is the writer's ``batch_size``: with batches of one, each record has a statement and an entry of its own.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from unittest import mock

from bench.database import Database
from bench.report import compared, in_rounds, spread
from bench.traffic import Bodies, Traffic, records
from rwriter import RequestsWriter
from rwriter._chain.secret import VARIABLE
from rwriter.ledger import audit

COUNTS: Final = {1: 1_500, 10: 6_000, 100: 12_000}
"""Records of a turn by batch size."""
ROUNDS: Final = 7
KINDS: Final = {f"{size} {kind}": (size, kind == "on") for size in COUNTS for kind in ("off", "on")}

_DISK: Final = """
SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(ARRAY['requests', 'request_templates', 'ledger']) AS name
"""


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take every kind's turn in each round; returns the figures of each, and the rate as a part of that without."""
    database = Database(url)
    bodies = Traffic().bodies(max(COUNTS.values()) // (8 if options.quick else 1))
    with mock.patch.dict(os.environ, {VARIABLE: "of the measurement"}):
        async with database.tables():
            turns = await in_rounds(
                KINDS, options.rounds, lambda kind: _turn(database, *KINDS[kind], bodies, quick=options.quick)
            )
    sizes = {}
    for size in COUNTS:
        pair = {kind: turns[f"{size} {kind}"] for kind in ("off", "on")}
        sizes[str(size)] = compared(pair, "off")
    return {"sizes": sizes}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each batch size and kind."""
    yield "records of 6 kB; rate as a part of that without a ledger in its round; medians a record"
    for size, kinds in result["sizes"].items():
        for kind, found in kinds.items():
            client, wal, disk = (found[name]["median"] for name in ("client_us", "wal", "disk"))
            yield (
                f"batches of {size:>3}, {kind:3} {spread(found['ratio']):22} {found['rate']['median']:8,.0f}/s  "
                f"client {client:6.1f} us  WAL {wal:7,.0f} B  disk {disk:7,.0f} B"
            )


async def _turn(
    database: Database, size: int, ledger: bool, bodies: Sequence[Bodies], *, quick: bool
) -> dict[str, float]:
    await database.empty()
    await database.execute("TRUNCATE ledger")
    made = records(bodies[: COUNTS[size] // (8 if quick else 1)])
    before = await database.wal_position()
    async with database.engines(4) as engines:
        options: Any = {"batch_size": size, "ledger": ledger, "channel_capacity": 1_000}
        async with RequestsWriter(engines, **options) as writer:
            began, processor = time.perf_counter(), time.process_time()
            for record in made:
                await writer.send(record)
            await writer.flush()
            seconds, used = time.perf_counter() - began, time.process_time() - processor
        wal = await database.wal_position() - before
        await database.verify(len(made))
        if ledger:
            report = await audit(engines)
            if report.findings:
                raise AssertionError(report.findings)
    async with database.control() as connection:
        disk = int((await connection.exec_driver_sql(_DISK)).scalar_one())
    each = len(made)
    return {"rate": each / seconds, "client_us": used / each * 1e6, "wal": wal / each, "disk": disk / each}

"""Measure what a record costs, and compute what a fleet needs: processors, WAL, disk and connections.

Records of 6 and of 40 kB go through the writer into a partitioned table, whose week is then archived. Every figure that
follows is one of these costs times a rate. Writes a table, and with ``--svg`` a picture of the bytes a day.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bench.archive import bytes_in, identity_at
from bench.database import Database, own_database, used
from bench.report import summary
from bench.traffic import MODEL, Bodies, Traffic
from rwriter import CompletedRequest, DbEngines, RequestsWriter, migrate, partitions
from rwriter.archive import archive_partitions

SIZES: Final = {"6 kB": (2_000, 4_000), "40 kB": (30_000, 10_000)}
RATES: Final = (100, 1_000, 10_000, 100_000)
COUNT: Final = 2_000
ROUNDS: Final = 3
NEEDED: Final = (
    "server cores", "client cores", "WAL MB a second", "tables GB a day", "Parquet GB a day", "connections"
)  # fmt: skip
FLUSHES: Final = 2
BUSY: Final = 0.5
"""The share of a core that one writing process is given: the rest is the service's own."""

_DATABASE: Final = "rwriter_bench_scale"
_DAY: Final = 86_400
_MICRO: Final = 1e6


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add where the picture goes."""
    parser.add_argument("--svg", type=Path, help="write the picture there")


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the costs of each size, a round after the other."""
    count = COUNT // 4 if options.quick else COUNT
    costs: dict[str, Any] = {}
    for name, (asked, answered) in SIZES.items():
        bodies = Traffic().bodies(count, request_bytes=asked, response_bytes=answered)
        rounds = [await _round(url, bodies) for _ in range(options.rounds)]
        costs[name] = {each: summary(found[each] for found in rounds) for each in rounds[0]}
    if options.svg is not None:
        options.svg.write_text(picture(costs), encoding="utf-8")
    return {"count": count, "costs": costs}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the costs of a record, and what each rate needs, as Markdown."""
    yield "| a record of | server µs | client µs | WAL bytes | disk bytes | Parquet bytes | archiving µs |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for size, cost in result["costs"].items():
        cells = (f"{cost[each]['median']:,.0f} [{cost[each]['min']:,.0f} .. {cost[each]['max']:,.0f}]" for each in cost)
        yield f"| {size} | {' | '.join(cells)} |"
    yield ""
    yield f"| requests a second | {' | '.join(NEEDED)} |"
    yield "| --- |" + " --- |" * len(NEEDED)
    for size, cost in result["costs"].items():
        for rate in RATES:
            yield f"| {rate:,} of {size} | {' | '.join(needed(cost, rate))} |"


def needed(cost: Mapping[str, Any], rate: int) -> Iterator[str]:
    """Yield what a rate needs, in the order of the table's columns."""
    server, client, wal, disk, parquet, _ = (cost[each]["median"] for each in cost)
    yield f"{rate * server / _MICRO:,.2f}"
    yield f"{rate * client / _MICRO:,.2f}"
    yield f"{rate * wal / 1e6:,.1f}"
    yield f"{rate * disk * _DAY / 1e9:,.0f}"
    yield f"{rate * parquet * _DAY / 1e9:,.0f}"
    yield f"{max(1, math.ceil(rate * client / _MICRO / BUSY)) * FLUSHES:,}"


# -- costs


async def _round(url: str, bodies: Sequence[Bodies]) -> dict[str, float]:
    """Store and archive once; returns what one record took."""
    monday = datetime.now(UTC) - timedelta(days=7 + datetime.now(UTC).weekday())
    records = [_record(pair, monday + timedelta(seconds=number)) for number, pair in enumerate(bodies)]
    async with own_database(url, _DATABASE) as own, DbEngines.from_url(own) as engines:
        await migrate.upgrade(own, partitioned="week")
        await partitions.ensure(engines, since=monday)
        database = Database(own, "public")
        try:
            stored = await _stored(database, engines, records)
            async with engines.write.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.exec_driver_sql("VACUUM ANALYZE")
            disk = (await partitions.listing(engines))[0].size
        finally:
            await database.dispose()
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            await archive_partitions(engines, datetime.now(UTC), folder)
            archiving, parquet = time.process_time() - began, bytes_in(Path(folder))
    count = len(records)
    return {each: value / count for each, value in (*stored.items(), ("disk", disk), ("parquet", parquet))} | {
        "archiving": archiving * _MICRO / count
    }


async def _stored(database: Database, engines: DbEngines, records: Sequence[CompletedRequest]) -> dict[str, float]:
    async with RequestsWriter(engines) as writer:
        # connections, statements and the catalogue's cache are warm when it counts
        await writer.send(records[0], wait="committed")
        await database.checkpoint()
        wal, server, client = await database.wal_position(), await database.processor_times(), time.process_time()
        for record in records[1:]:
            await writer.send(record)
        await writer.flush()
        client = time.process_time() - client
        busy = used(server, await database.processor_times())
        wal = await database.wal_position() - wal
    return {"server": (busy or math.nan) * _MICRO, "client": client * _MICRO, "wal": wal}


def _record(bodies: Bodies, began: datetime) -> CompletedRequest:
    return CompletedRequest(
        request_id=identity_at(began),
        status_code=200,
        request_body=bodies[0],
        response_body=bodies[1],
        model=MODEL,
        endpoint="/v1/responses",
        api_key="sk-bench",
        created_by=f"owner-{began.second}",
        started_at=began,
        completed_at=began + timedelta(seconds=1),
    )


# -- the picture


WIDTH: Final = 640
HEIGHT: Final = 400
MARGIN: Final = 60
_LEAST: Final = 1e9
_MOST: Final = 1e15
_DRAWN: Final = {
    "wal": ("WAL", "#c0504d", -2),
    "disk": ("tables", "#4472c4", 10),
    "parquet": ("Parquet", "#6a9f4f", 2),
}
"""The name and the colour of each line, and by how much its name is moved down: two lines are near each other."""


def picture(costs: Mapping[str, Any]) -> str:
    """Return an SVG of the bytes a day over the rate, both by powers of ten: solid for 6 kB, dashed for 40 kB."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_grid(),
    ]
    for dash, (size, cost) in zip(("none", "6 4"), costs.items(), strict=True):
        for each, (name, colour, down) in _DRAWN.items():
            points = [_at(rate, rate * cost[each]["median"] * _DAY) for rate in RATES]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            )
            x, y = points[-1]
            parts.append(f'<text x="{x + 4:.1f}" y="{y + down:.1f}" fill="{colour}">{name}, {size}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _grid() -> Iterator[str]:
    units = {9: "1 GB", 10: "10 GB", 11: "100 GB", 12: "1 TB", 13: "10 TB", 14: "100 TB", 15: "1 PB"}
    for power, label in units.items():
        _, y = _at(RATES[0], 10**power)
        yield f'<line x1="{MARGIN}" y1="{y:.1f}" x2="{WIDTH - 2 * MARGIN}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    for rate in RATES:
        x, _ = _at(rate, _LEAST)
        yield f'<line x1="{x:.1f}" y1="{MARGIN / 2}" x2="{x:.1f}" y2="{HEIGHT - MARGIN}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{rate:,}</text>'
    yield f'<text x="{WIDTH / 2 - MARGIN / 2}" y="{HEIGHT - 16}" text-anchor="middle">requests a second</text>'
    yield f'<text x="{MARGIN}" y="20">bytes a day</text>'


def _at(rate: float, amount: float) -> tuple[float, float]:
    across = (math.log10(rate) - math.log10(RATES[0])) / math.log10(RATES[-1] / RATES[0])
    up = (math.log10(amount) - math.log10(_LEAST)) / math.log10(_MOST / _LEAST)
    return MARGIN + across * (WIDTH - 3 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 1.5 * MARGIN)

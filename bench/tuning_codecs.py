"""What an element of an array costs the client and the server, by its type: ``SELECT count(*) FROM unnest($1)``."""

from __future__ import annotations

import gc
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import uuid_utils

from bench.database import Database, used
from bench.peer_asyncpg import Driver
from bench.traffic import Traffic
from bench.tuning_statements import microseconds
from rwriter import new_request_id

ELEMENTS: Final = 100

PARTS: Final = 4
"""Of a measurement, the least of which counts: what is told are small differences, and a disturbed part hides them."""

GROUPS: Final = ("uuid", "timestamptz", "smallint", "text", "null")

_EMPTY: Final = "SELECT count(value) FROM unnest($1::int[]) AS value"

_Probe = tuple[str, list[Any]]


def _probes() -> Mapping[str, _Probe]:
    ids: list[uuid.UUID] = [new_request_id() for _ in range(ELEMENTS)]
    times = [datetime.now(UTC) for _ in range(ELEMENTS)]
    pairs = Traffic().bodies(ELEMENTS)
    return {
        "smallint": ("smallint[]", [200] * ELEMENTS),
        "int": ("int[]", [4_000] * ELEMENTS),
        "uuid of uuid.UUID": ("uuid[]", ids),
        "uuid of uuid_utils.UUID": ("uuid[]", [uuid_utils.UUID(int=each.int) for each in ids]),
        "uuid of asyncpg's UUID": ("uuid[]", [asyncpg.pgproto.pgproto.UUID(each.bytes) for each in ids]),
        "uuid of text": ("text[]", ids),
        "uuid of bytea": ("bytea[]", ids),
        "timestamptz of datetime": ("timestamptz[]", times),
        "timestamptz of float8": ("float8[]", times),
        "timestamptz of int8": ("bigint[]", times),
        "text of 12 characters": ("text[]", ["gpt-4o-mini2"] * ELEMENTS),
        "text of 2,000 characters": ("text[]", [request for request, _ in pairs]),
        "text of 4,000 characters": ("text[]", [response for _, response in pairs]),
        "null": ("text[]", [None] * ELEMENTS),
    }


_MADE: Final = {
    "uuid of text": "max(value::uuid::text)",
    "uuid of bytea": "max(encode(value, 'hex')::uuid::text)",
    "uuid of uuid.UUID": "max(value::text)",
    "uuid of uuid_utils.UUID": "max(value::text)",
    "uuid of asyncpg's UUID": "max(value::text)",
    "timestamptz of datetime": "max(value)",
    "timestamptz of float8": "max(to_timestamp(value))",
    "timestamptz of int8": "max(timestamptz 'epoch' + value * interval '1 microsecond')",
}
"""So that the server makes of each what the table wants."""

_CONVERTED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "uuid of text": str,
    "uuid of bytea": lambda each: each.bytes,
    "timestamptz of float8": datetime.timestamp,
    "timestamptz of int8": microseconds,
}
"""What the client makes of a record's own value; timed, as it would be done for every batch."""


async def measure(database: Database, *, rounds: int, times: int) -> list[Mapping[str, Mapping[str, float]]]:
    """Microseconds an element, client's and server's, by type, ``rounds`` times; each time of ``times`` statements."""
    probes = _probes()
    async with database.drivers(1) as (driver,):
        found: list[Mapping[str, Mapping[str, float]]] = []
        for number in range(rounds + 1):
            by = number % len(probes)
            order = [*list(probes.items())[by:], *list(probes.items())[:by]]
            empty = await _spent(database, driver, _EMPTY, list, times)
            found.append({name: await _cost(database, driver, name, probe, empty, times) for name, probe in order})
    return found[1:]  # the first round prepares the statements


async def _cost(
    database: Database, driver: Driver, name: str, probe: _Probe, empty: Sequence[float], times: int
) -> Mapping[str, float]:
    type_, values = probe
    sql = f"SELECT {_MADE.get(name, 'count(value)')} FROM unnest($1::{type_}) AS value"
    convert = _CONVERTED.get(name)
    made = (lambda: [convert(value) for value in values]) if convert else (lambda: list(values))
    client, server = await _spent(database, driver, sql, made, times)
    each = 1e6 / ELEMENTS
    return {"client_us": (client - empty[0]) * each, "server_us": (server - empty[1]) * each}


async def _spent(
    database: Database, driver: Driver, sql: str, made: Callable[[], list[Any]], times: int
) -> tuple[float, float]:
    """Seconds of the client and the server that a statement took."""
    prepared, part = await driver.prepare(sql), max(1, times // PARTS)
    client, server = zip(*[await _executed(database, prepared, made, part) for _ in range(PARTS)], strict=True)
    return min(client) / part, min(server) / part


async def _executed(
    database: Database, prepared: asyncpg.prepared_stmt.PreparedStatement, made: Callable[[], list[Any]], times: int
) -> tuple[float, float]:
    before = await database.processor_times()
    gc.collect()
    started = time.process_time()
    for _ in range(times):
        await prepared.fetchrow(made())
    client = time.process_time() - started
    return client, used(before, await database.processor_times()) or 0.0

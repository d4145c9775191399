"""Store records with the rwriter that is first on the path, as ``bench against`` orders on standard input.

It runs by its file name, under either of two checkouts: it imports nothing of ``bench``, and of rwriter what both have.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import rwriter
from rwriter import CompletedRequest, DbEngines, NewRequest, RequestStore, RequestsWriter, migrate, new_request_id

BEGINNING_AT_ONCE: Final = 4
MODEL: Final = "gpt-4o-mini"


def main(url: str, bodies_file: str, tables: str = "make") -> None:
    """Migrate the database, or use it as it is; say which package this is, then carry out a line of JSON at a time."""
    if tables == "make":
        asyncio.run(migrate.upgrade(url))
    with open(bodies_file, encoding="utf-8") as file:  # noqa: PTH123 -- as short as it can be
        bodies: list[tuple[str, str]] = json.load(file)
    print(json.dumps(rwriter.__file__), flush=True)
    for line in iter(sys.stdin.readline, ""):
        asyncio.run(_turn(url, bodies, **json.loads(line)))
        print(json.dumps("closed"), flush=True)


async def _turn(  # noqa: PLR0913 -- the names of an order
    url: str,
    bodies: Sequence[tuple[str, str]],
    *,
    path: str,
    batch: int,
    records: int,
    warm_up: int,
    rate: float | None = None,
    **options: Any,
) -> None:
    """Store ``warm_up`` records, say so and wait; then store ``records``, say how long that took, and wait again.

    ``rate`` is of records a second, else as fast as they go in; ``options`` are the writer's.
    Both are seconds from the first ``send`` to the last commit: ``seconds`` of the clock, ``cpu`` of this process.
    """
    given = list(itertools.islice(_made(bodies), warm_up + records))
    async with DbEngines.from_url(url) as engines:
        if path == "update":
            await _begin(RequestStore(engines), given)
            async with engines.write.connect() as connection:
                # without statistics the planner may join by a scan of the table
                await connection.exec_driver_sql("ANALYZE requests, request_templates")
                await connection.commit()
        async with RequestsWriter(engines, batch_size=batch, **options) as writer:
            await _send(writer, given[:warm_up], batch)
            gc.collect()
            await _say("ready")
            cpu, started = time.process_time(), time.perf_counter()
            await (_send(writer, given[warm_up:], batch) if rate is None else _paced(writer, given[warm_up:], rate))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            # the connections stay until the processor time of their server processes is read
            await _say({"seconds": seconds, "cpu": cpu})


async def _say(answer: object) -> None:
    """Print ``answer`` and wait for the next line."""
    print(json.dumps(answer), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def _send(writer: RequestsWriter, given: Sequence[CompletedRequest], batch: int) -> None:
    for number, record in enumerate(given, 1):
        await writer.send(record)
        if number % batch == 0:
            # send() suspends only when the buffer is full; a service's handlers come and go in between
            await asyncio.sleep(0)
    await writer.flush()


async def _paced(writer: RequestsWriter, given: Sequence[CompletedRequest], rate: float) -> None:
    started = time.perf_counter()
    for number, record in enumerate(given):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        await writer.send(record)
    await writer.flush()


def _made(bodies: Sequence[tuple[str, str]]) -> Iterator[CompletedRequest]:
    for request_body, response_body in itertools.cycle(bodies):
        now = datetime.now(UTC)
        yield CompletedRequest(
            request_id=new_request_id(),
            status_code=200,
            request_body=request_body,
            response_body=response_body,
            model=MODEL,
            endpoint="/v1/responses",
            api_key="sk-bench",
            created_by="bench",
            started_at=now - timedelta(seconds=1),
            completed_at=now,
        )


async def _begin(store: RequestStore, given: Sequence[CompletedRequest]) -> None:
    """Insert a row in ``processing`` for each record, as a service does when a request begins."""
    left = iter(given)
    await asyncio.gather(*(_begin_each(store, left) for _ in range(BEGINNING_AT_ONCE)))


async def _begin_each(store: RequestStore, left: Iterator[CompletedRequest]) -> None:
    for record in left:
        known: dict[str, Any] = {
            "request_id": record.request_id,
            "body": record.request_body,
            "model": record.model,
            "endpoint": record.endpoint,
            "method": "POST",
            "path": record.endpoint,
            "api_key": record.api_key,
            "created_by": record.created_by,
        }
        await store.create_realtime(NewRequest(**known))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The program under fire: offers records to a writer and prints the id of each one ``send`` returned for.

``python -m tests.chaos.service ORDERS``, where ORDERS is ``Orders`` as JSON. On standard output: ``ready``, then an id
a line, each flushed, and between them reports as JSON. SIGUSR1 ends the offering, SIGTERM the service, as in a deploy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, Literal
from uuid import UUID

import msgspec

from rwriter import (
    CompletedRequest,
    DbEngines,
    JetStreamStore,
    NewRequest,
    RequestsWriter,
    Spool,
    WriterClosed,
    WriterStats,
    new_request_id,
)
from tests.support.records import record

REPORT_INTERVAL = 0.1


class Orders(msgspec.Struct, kw_only=True):
    """Orders to the service. Times are seconds, sizes bytes."""

    url: str
    nats: str | None = None  # publish to the stream there, in place of the database
    stream: str = ""
    spool: str | None = None
    spool_bytes: int = 1 << 30
    fsync: Literal["full", "normal", "off"] = "full"
    journal: bool = False
    begin: bool = False  # each row is begun by create_realtime first
    pgbouncer: bool = False
    pool_size: int = 5
    connect_timeout: float = 10.0
    statement_timeout: float = 30.0
    senders: int = 4
    pause: float = 0.002  # of each sender between two records; 0 is full input
    total: int | None = None  # records, then no more
    body_bytes: int = 200
    bad_every: int = 0  # one record in so many has the body "bad"
    first_id: UUID | None = None  # of the first record
    hang_up_every: int = 0  # one send in so many is cancelled, as by a client that goes away
    file_limit: int | None = None  # of any file it writes: a disk that is full for a while
    writer: dict[str, Any] = {}  # options of RequestsWriter


class Report(msgspec.Struct, kw_only=True):
    """The service's own statistics. ``closed_in`` is the seconds that the drain took; only the last report has it."""

    stats: WriterStats
    refused: int = 0
    closed_in: float | None = None


class HungUp(Exception):
    """The caller's task was cancelled in the middle of ``send``."""


class Offering:
    """Sends records until it is told to stop, the writer is closed, or ``total`` is reached."""

    def __init__(self, writer: RequestsWriter, orders: Orders) -> None:
        self.refused = 0
        self._writer = writer
        self._orders = orders
        self._stopped = False
        self._records = islice(enumerate(_records(orders)), orders.total)

    def stop(self) -> None:
        self._stopped = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._orders.senders):
                group.create_task(self._send())

    async def _send(self) -> None:
        for number, item in self._records:
            try:
                await self._hand_over(item, hang_up=self._hangs_up(number))
            except WriterClosed:
                return
            except Exception as exc:  # noqa: BLE001 -- whatever it is, this record was not accepted
                self.refused += 1
                logging.getLogger("service").warning("refused: %r", exc)
            else:
                say(str(item.request_id))  # nothing may come between send and this
            if self._stopped:
                return
            await asyncio.sleep(self._orders.pause)

    async def _hand_over(self, item: CompletedRequest, *, hang_up: bool) -> None:
        if self._orders.begin:
            await self._writer.store.create_realtime(NewRequest.before(item))
        if not hang_up:
            await self._writer.send(item)
            return
        sending = asyncio.create_task(self._writer.send(item))
        asyncio.get_running_loop().call_soon(sending.cancel)
        await asyncio.wait({sending})
        if sending.cancelled():
            raise HungUp
        await sending

    def _hangs_up(self, number: int) -> bool:
        return self._orders.hang_up_every > 0 and number % self._orders.hang_up_every == 0

    def report(self, closed_in: float | None = None) -> None:
        report = Report(stats=self._writer.stats, refused=self.refused, closed_in=closed_in)
        say(msgspec.json.encode(report).decode())


def say(line: str) -> None:
    # one write for the whole line: kill -9 leaves all of it in the pipe, or nothing
    os.write(1, f"{line}\n".encode())


def _records(orders: Orders) -> Iterator[CompletedRequest]:
    body = "x" * orders.body_bytes
    for number in count(1):
        bad = orders.bad_every and number % orders.bad_every == 0
        identity = orders.first_id if number == 1 and orders.first_id is not None else new_request_id()
        # a text of its own for each, or a buffer full of them would hold a single one
        yield record(request_id=identity, response_body="bad" if bad else f"{body}{number}")


async def serve(orders: Orders) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    spool = None if orders.spool is None else Spool(orders.spool, max_bytes=orders.spool_bytes, fsync=orders.fsync)
    async with _destination(orders) as destination:
        durability: Any = "journal" if orders.journal else "memory"
        writer = RequestsWriter(destination, spool=spool, durability=durability, **orders.writer)
        offering = Offering(writer, orders)
        loop.add_signal_handler(signal.SIGUSR1, offering.stop)
        async with writer:
            say("ready")
            reporting = asyncio.create_task(_report(offering))
            sending = asyncio.create_task(offering.run())
            await stop.wait()
            began = time.monotonic()
        closed_in = time.monotonic() - began
        await sending
        reporting.cancel()
    offering.report(closed_in)


def _destination(orders: Orders) -> DbEngines | JetStreamStore:
    if orders.nats is not None:
        return JetStreamStore(orders.nats, stream=orders.stream, timeout=2.0)
    return DbEngines.from_url(
        orders.url,
        pgbouncer=orders.pgbouncer,
        pool_size=orders.pool_size,
        connect_timeout=orders.connect_timeout,
        statement_timeout=orders.statement_timeout,
    )


async def _report(offering: Offering) -> None:
    while True:
        offering.report()
        await asyncio.sleep(REPORT_INTERVAL)


def main() -> None:
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if orders.file_limit is not None:
        # the soft limit alone: whoever started this may lift it again
        resource.setrlimit(resource.RLIMIT_FSIZE, (orders.file_limit, resource.RLIM_INFINITY))
    asyncio.run(serve(orders))


if __name__ == "__main__":
    main()

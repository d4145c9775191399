"""The writer itself, with its default options but for what the setting varies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from bench.database import Database
from bench.peers.common import Peer, Setting, Work
from rwriter import CompletedRequest, RequestsWriter


@contextlib.asynccontextmanager
async def writer(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    """Open ``RequestsWriter``."""
    async with (
        database.engines(setting.flushes) as engines,
        RequestsWriter(engines, batch_size=setting.batch, flush_concurrency=setting.flushes) as opened,
    ):
        yield Peer(setting.flushes, lambda records: _sent(opened, records, setting.batch))


def _sent(opened: RequestsWriter, records: Sequence[CompletedRequest], batch: int) -> Work:
    """Return work from the first ``send`` to the last commit."""

    async def send_all() -> None:
        for number, record in enumerate(records, 1):
            await opened.send(record)
            if number % batch == 0:
                # send() only suspends when the buffer is full; a service's handlers come and go in between
                await asyncio.sleep(0)
        await opened.flush()

    return send_all

"""Run consumers of a stream, until it is empty or for the length of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rwriter.engines import EngineProvider
from rwriter.stream import ConsumerStats, StreamConsumer
from rwriter.testing import Kept
from tests.support.brokers import Broker, asked
from tests.support.driving import eventually
from tests.support.sinks import kept_in

HASTY: dict[str, Any] = {
    "max_retries": 1,
    "retry_base_delay": 0.01,
    "retry_max_delay": 0.05,
    "return_delay": 0.3,
    "lag_interval": 0.02,
}


@asynccontextmanager
async def consuming(
    broker: Broker, stream: str, engines: EngineProvider, **options: Any
) -> AsyncIterator[StreamConsumer]:
    """Yield a consumer that runs until the block is left, and then ends by itself."""
    consumer = StreamConsumer(broker.url, engines, stream=stream, **(HASTY | options))
    shutdown = asyncio.Event()
    running = asyncio.create_task(consumer.run(shutdown))
    try:
        yield consumer
    finally:
        shutdown.set()
        async with asyncio.timeout(30):
            await running


async def is_empty(broker: Broker, stream: str) -> bool:
    """Return True if no message is in ``stream``, acknowledged or on its way."""
    return (await asked(broker, lambda jetstream: jetstream.stream_info(stream))).state.messages == 0


async def drained(broker: Broker, stream: str, engines: EngineProvider, **options: Any) -> ConsumerStats:
    """Consume until nothing is left in ``stream``, and return the consumer's account."""
    async with consuming(broker, stream, engines, **options) as consumer:
        await eventually(lambda: is_empty(broker, stream))
    return consumer.stats


async def kept_behind(broker: Broker, stream: str, engines: EngineProvider) -> Kept:
    """Return the records that are in the database once the stream is empty."""
    await drained(broker, stream, engines)
    return await kept_in(engines.write)

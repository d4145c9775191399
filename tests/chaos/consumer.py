"""The consumer under fire: ``python -m tests.chaos.consumer NATS_URL DATABASE_URL STREAM``. SIGTERM ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from rwriter import DbEngines, consume

ACK_WAIT = 2.0
"""Seconds after which the message of a killed consumer comes again; the default would make a scenario of minutes."""


async def main(servers: str, database: str, stream: str) -> None:
    shutdown = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, shutdown.set)
    async with DbEngines.from_url(database, connect_timeout=2.0) as engines:
        stats = await consume(
            servers,
            engines,
            shutdown,
            stream=stream,
            ack_wait=ACK_WAIT,
            return_delay=1.0,
            retry_max_delay=0.5,
            timeout=2.0,
        )
    assert stats.received == stats.persisted + stats.skipped + stats.dead + stats.returned, stats


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))

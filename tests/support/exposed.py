"""Run a gateway with the OpenTelemetry SDK and its Prometheus exporter: ``python -m tests.support.exposed URL FOLDER``.

It prints the port of ``/metrics`` once there is something of everything to see, and serves until its input ends. A
program of its own because providers can be set only once in a process.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import CompletedRequest, DbEngines, RecordNotStored, RequestsWriter, Spool, Upkeep
from rwriter.asgi import CaptureMiddleware
from rwriter.asgi._types import Receive, Scope, Send
from tests.support.asgi_client import Exchange, owners, say
from tests.support.asgi_client import read as read_all
from tests.support.records import record

UNREACHABLE = "postgresql+asyncpg://u@127.0.0.1:1/d"
OLD = datetime.now(UTC) - timedelta(days=2)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as a provider would, or refuse a model that there is not."""
    asked = json.loads(await read_all(receive))
    if asked["model"] == "nonsense":
        await say(send, json.dumps({"error": {"message": "no such model"}}).encode(), status=404)
        return
    usage = {"prompt_tokens": 12, "completion_tokens": 34}
    await say(send, json.dumps({"id": "c-1", "model": f"{asked['model']}-2026", "usage": usage}).encode())


async def calls(writer: RequestsWriter) -> None:
    """Send calls of several kinds through the middleware."""
    middleware = CaptureMiddleware(app, writer, attribute=owners, gen_ai_metrics=True)
    for model, path in (
        ("gpt-test", "/v1/chat/completions"),
        ("gpt-test", "/v1/responses"),
        ("text-embed", "/openai/deployments/any/embeddings"),
        ("claude-test", "/v1/messages"),
        ("nonsense", "/v1/chat/completions"),
    ):
        await Exchange(middleware, json.dumps({"model": model}).encode(), path=path).run()
    await Exchange(middleware, b'{"model":"MARKER"}', key="sk-unknown").run()
    await middleware.flush()


async def lose(folder: Path) -> None:
    """Have records spooled, dropped, and left when a writer is closed."""
    engine = create_async_engine(UNREACHABLE, poolclass=NullPool)
    options: dict[str, Any] = {"max_retries": 1, "retry_base_delay": 0.001}
    async with RequestsWriter(engine, name="away", spool=Spool(folder), **options) as writer:
        await send(writer, record(), record())
        writer.send_nowait(record())
    async with RequestsWriter(engine, name="away", give_up_after=0, **options) as writer:
        await send(writer, record())


async def send(writer: RequestsWriter, *records: CompletedRequest) -> None:
    """Send ``records`` and wait for the end of each, whatever it is."""
    for one in records:
        try:
            await writer.send(one, wait="committed")
        except RecordNotStored:
            continue


async def main(url: str, folder: Path) -> None:
    """Fill the instruments, then serve them, with one more record a moment for the rates."""
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    server, thread = start_http_server(0, addr="127.0.0.1")
    await lose(folder)
    upkeep = Upkeep(purge_after=timedelta(days=1), every=timedelta(seconds=1))
    async with DbEngines.from_url(url) as engines:
        gateway: dict[str, Any] = {"name": "gateway", "spool": Spool(folder), "replay_interval": 0.2, "ledger": True}
        async with RequestsWriter(engines, upkeep=upkeep, **gateway) as writer:
            await send(writer, record(started_at=OLD, completed_at=OLD), record(model="refused"), record(model="\0"))
            await calls(writer)
            async with asyncio.timeout(20):
                while writer.stats.replayed < 3:
                    await asyncio.sleep(0.01)
            sys.stdout.write(f"{server.server_port}\n")
            sys.stdout.flush()
            ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
            while not ended.done():
                await send(writer, record())
                await asyncio.sleep(0.1)
    server.shutdown()
    server.server_close()
    thread.join()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))

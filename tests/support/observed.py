"""Run a service with the OpenTelemetry SDK: ``python -m tests.support.observed URL`` prints its exports as JSON.

It is a program of its own because providers can be set only once in a process.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import CompletedRequest, DbEngines, RecordNotStored, RequestStore, RequestsWriter, Spool, Upkeep
from rwriter.engines._urls import connect_arguments
from rwriter.schema import requests
from tests.support.records import record

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNREACHABLE = "postgresql+asyncpg://u@127.0.0.1:1/d"
"""The URL of a port on which no server listens."""


def secret(**changes: Any) -> CompletedRequest:
    """Return a record whose bodies and key contain ``MARKER``, so that a test can search the exports for them."""
    return record(**({"request_body": "MARKER q", "response_body": "MARKER a", "api_key": "sk-MARKER"} | changes))


async def send(writer: RequestsWriter, *records: CompletedRequest) -> None:
    """Send ``records`` and wait until each is settled. Raises any error but ``RecordNotStored``."""
    answers = await asyncio.gather(*(writer.send(one, wait="committed") for one in records), return_exceptions=True)
    for answer in answers:
        if answer is not None and not isinstance(answer, RecordNotStored):
            raise answer


async def store(url: str) -> dict[str, Any]:
    """Send records that are persisted, skipped and refused by the database.

    Returns the number accepted, the spans that the refused ones and two others were sent in, and a refused one's id.
    """
    tracer = trace.get_tracer("service")
    async with DbEngines.from_url(url) as engines, RequestsWriter(engines, name="stored") as writer:
        first = [secret() for _ in range(5)]
        await send(writer, *first)
        with tracer.start_as_current_span("handler") as handler:
            await send(writer, first[0], first[1])
        traced, refused = secret(model="refused", metadata={"traceparent": TRACEPARENT}), secret(model="refused")
        with tracer.start_as_current_span("other handler") as other:
            await send(writer, secret(response_body="MARKER\0"), refused, secret(model="\ud800\0"))
        await send(writer, traced)
        return {
            "accepted": writer.stats.accepted,
            "sent_in": [f"0x{span.get_span_context().span_id:016x}" for span in (handler, other)],
            "refused": {
                str(refused.request_id): f"{other.get_span_context().trace_id:032x}",
                str(traced.request_id): TRACEPARENT.split("-")[1],
            },
        }


async def drop() -> dict[str, Any]:
    """Send records to an unreachable database, so that they are dropped; returns the number accepted."""
    engine = create_async_engine(UNREACHABLE, poolclass=NullPool)
    async with RequestsWriter(engine, name="dropped", max_retries=1, retry_base_delay=0, give_up_after=0) as writer:
        await send(writer, secret(), secret(), secret())
        return {"accepted": writer.stats.accepted}


async def spool(folder: Path, reader: InMemoryMetricReader) -> dict[str, Any]:
    """Send records to an unreachable database, so that they are spooled; returns the gauges once they tell of it."""
    engine = create_async_engine(UNREACHABLE, poolclass=NullPool)
    options: dict[str, Any] = {"max_retries": 0, "retry_base_delay": 0.01, "replay_interval": 0.01}
    async with RequestsWriter(engine, name="spooled", spool=Spool(folder), **options) as writer:
        await send(writer, secret(), secret())
        # two more are pending when it closes
        begun = asyncio.get_running_loop().time()
        async with asyncio.timeout(20):
            while first_value(found := collected(reader), "rwriter.spool.records") != 2:
                await asyncio.sleep(0.01)
        writer.send_nowait(secret())
        return {"gauges": found, "took": asyncio.get_running_loop().time() - begun}


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Return the metrics as they are now."""
    found: dict[str, Any] = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
    return found


def first_value(found: dict[str, Any], name: str) -> float | None:
    """Return the value of the first data point of a metric, ``None`` as long as there is none."""
    for metric in found["resource_metrics"][0]["scope_metrics"][0]["metrics"]:
        if metric["name"] == name:
            value: float = metric["data"]["data_points"][0]["value"]
            return value
    return None


async def wait(url: str, reader: InMemoryMetricReader) -> dict[str, Any]:
    """Read the gauges while two records are in the buffer; returns them beside the values they should have."""
    parsed, arguments = connect_arguments(url)
    engine = create_async_engine(parsed, connect_args=arguments, poolclass=NullPool)
    async with RequestsWriter(engine, name="waiting", linger=600) as writer:
        pending = [secret(), secret()]
        for one in pending:
            await writer.send(one)
        await asyncio.sleep(0)
        gauges = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
        return {
            "gauges": gauges,
            "pending_bytes": sum(one.text_bytes for one in pending),
            "age_soon_after": writer.stats.oldest_age,
        }


async def keep(url: str, reader: InMemoryMetricReader) -> dict[str, Any]:
    """Have upkeep meet an old row that it cannot delete, as somebody has locked it; returns the metrics then."""
    old = secret(created_by="old")
    async with DbEngines.from_url(url) as engines, engines.write.connect() as connection:
        await RequestStore(engines).persist_completed([old])
        await connection.execute(select(requests).where(requests.c.id == old.request_id).with_for_update())
        upkeep = Upkeep(purge_after=timedelta(days=1), every=timedelta(milliseconds=10))
        async with RequestsWriter(engines, name="kept", upkeep=upkeep), asyncio.timeout(20):
            # rows that it can delete are gone after the first round
            while not (first_value(found := collected(reader), "rwriter.upkeep.backlog") and _has_sizes(found)):
                await asyncio.sleep(0.01)
    return found


def _has_sizes(found: dict[str, Any]) -> bool:
    return first_value(found, "rwriter.table.size") is not None


async def main(url: str) -> None:
    """Run the three services and print what they returned and exported."""
    # providers are set after the import of rwriter, as in most services
    spans, reader, lines = InMemorySpanExporter(), InMemoryMetricReader(), io.StringIO()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    logging.basicConfig(stream=lines)
    logging.getLogger("rwriter").setLevel(logging.DEBUG)
    seen = {"stored": await store(url), "dropped": await drop(), "waiting": await wait(url, reader)}
    seen["kept"] = await keep(url, reader)
    with tempfile.TemporaryDirectory() as folder:
        seen["spooled"] = await spool(Path(folder) / "spool", reader)
    seen["metrics"] = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
    seen["spans"] = {"all": [json.loads(span.to_json()) for span in spans.get_finished_spans()]}
    seen["logs"] = {"all": lines.getvalue()}
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

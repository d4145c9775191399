"""Run a consumer with the OpenTelemetry SDK and print its metrics: ``... NATS_URL DATABASE_URL STREAM``."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from rwriter import DbEngines
from rwriter.stream import StreamConsumer
from tests.support.consuming import HASTY
from tests.support.driving import eventually


async def main(servers: str, database: str, stream: str) -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    shutdown = asyncio.Event()
    async with DbEngines.from_url(database) as engines:
        consumer = StreamConsumer(servers, engines, stream=stream, name="observed", **HASTY)
        running = asyncio.create_task(consumer.run(shutdown))
        await eventually(lambda: consumer.stats.redelivered >= 2 and consumer.stats.lag == 1)
        shutdown.set()
        await running
    print(json.dumps({"metrics": exported(reader), "redelivered": consumer.stats.redelivered}))  # noqa: T201


def exported(reader: InMemoryMetricReader) -> list[dict[str, Any]]:
    """Return every point of every instrument."""
    data = reader.get_metrics_data()
    assert data is not None
    return [
        {"name": metric.name, "unit": metric.unit, "attributes": dict(point.attributes or {}), "value": point.value}
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if hasattr(point, "value")
    ]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

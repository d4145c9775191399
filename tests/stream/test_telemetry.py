"""A consumer as a service with the OpenTelemetry SDK sees it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE

from rwriter import JetStreamStore
from tests.docs.pages import ROOT
from tests.support.brokers import Broker, asked
from tests.support.records import record


async def test_messages_redeliveries_and_lag_are_told(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_database: str
) -> None:
    await store.persist_completed([record() for _ in range(5)])
    await asked(broker, lambda jetstream: jetstream.publish(f"{stream}.records", b"not ours"))
    command = [sys.executable, "-m", "tests.support.observed_stream", broker.url, rwriter_database, stream]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    seen = json.loads(printed)
    found = {(each["name"], each["attributes"].get("outcome")): each for each in seen["metrics"]}
    unreadable = found["rwriter.stream.messages", "unreadable"]["value"]
    assert found["rwriter.stream.messages", "acknowledged"]["value"] == 1
    assert unreadable == 1 + seen["redelivered"]
    assert found["rwriter.stream.redeliveries", None]["value"] == seen["redelivered"]
    assert found["rwriter.stream.lag", None]["value"] == 1
    assert found["rwriter.records", "persisted"]["value"] == 5
    assert {each["attributes"]["consumer"] for each in seen["metrics"] if "stream" in each["name"]} == {"observed"}

"""``rwriter consume`` as a deployment runs it: a process that SIGTERM ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE

import pytest

from rwriter import JetStreamStore
from rwriter.testing import TestDbEngines
from tests.support.brokers import Broker
from tests.support.consuming import is_empty
from tests.support.driving import eventually
from tests.support.fates import ids, stored
from tests.support.records import record


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_stores_until_it_is_told_to_end_and_prints_the_account(
    store: JetStreamStore,
    broker: Broker,
    stream: str,
    rwriter_database: str,
    rwriter_engines: TestDbEngines,
    ending: signal.Signals,
) -> None:
    records = [record() for _ in range(20)]
    await store.persist_completed(records)
    command = [sys.executable, "-m", "rwriter.cli", "consume", "--stream", stream, "--json"]
    environment = os.environ | {"RWRITER_NATS_URL": broker.url, "RWRITER_DATABASE_URL": rwriter_database}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE)
    try:
        await eventually(lambda: is_empty(broker, stream), within=60)
        process.send_signal(ending)
        async with asyncio.timeout(60):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    account = json.loads(printed)
    assert (account["received"], account["persisted"], account["messages"]) == (20, 20, 1)
    assert await stored(rwriter_engines) == ids(records)

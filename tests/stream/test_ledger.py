"""A ledger through the stream: the writer's entries travel with the records, the consumer has a chain of its own."""

from __future__ import annotations

import pytest

from rwriter import JetStreamStore
from rwriter._chain.secret import VARIABLE
from rwriter.ledger import audit
from rwriter.testing import TestDbEngines
from tests.support.brokers import Broker
from tests.support.consuming import drained
from tests.support.faults import refuse_bad_bodies
from tests.support.ledgers import execute, findings, found, writing
from tests.support.records import record


async def test_records_that_came_through_the_stream_are_explained_and_a_lost_one_is_named(
    store: JetStreamStore,
    broker: Broker,
    stream: str,
    rwriter_engines: TestDbEngines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "of the test")
    await refuse_bad_bodies(rwriter_engines)
    async with writing(store) as writer:
        for number in range(20):
            await writer.send(record(response_body="bad" if number == 7 else "good"))
    # nothing is in the database yet, and no ledger
    assert (await audit(rwriter_engines)).exit_code == 2
    await drained(broker, stream, rwriter_engines, ledger=True)
    report = await audit(rwriter_engines, bodies=True)
    assert (found(report), report.writers, report.records) == ({}, 2, 19)
    await execute(
        rwriter_engines,
        "DELETE FROM requests WHERE id = (SELECT id FROM requests LIMIT 1)",
        "DELETE FROM ledger WHERE kind = 'stored'",
    )
    told = await findings(rwriter_engines)
    assert told["still_spooled"] == 1

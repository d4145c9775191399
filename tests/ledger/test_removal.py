"""Rows that an erasure, a purge or a drop of partitions took are explained by the entries that those leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from sqlalchemy import text

from rwriter import RequestStore
from rwriter.ledger import audit
from rwriter.partitions import drop
from rwriter.store._dead_letters import DeadLetters
from rwriter.testing import TestDbEngines
from tests.support.faults import refuse_bad_bodies
from tests.support.ledgers import execute, findings, found, writing, written
from tests.support.records import id_at, record

LATER: Final = timedelta(hours=1)


@pytest.mark.both_variants
async def test_what_is_erased_purged_or_deleted_is_explained(rwriter_engines: TestDbEngines) -> None:
    store = RequestStore(rwriter_engines)
    now = datetime.now(UTC)
    async with writing(rwriter_engines) as writer:
        for owner in ("anna", "bert", "carl"):
            for _ in range(3):
                await writer.send(record(created_by=owner, started_at=now, completed_at=now))
        one = record(created_by="dora", started_at=now, completed_at=now, status_code=499)
        await writer.send(one, wait="committed")
        await writer.flush()
        assert (await writer.erase("anna")).requests == 3
    assert await store.delete_request(one.request_id)
    assert (await store.purge(now + LATER, bodies_only=True, limit=3)).requests == 3
    report = await audit(rwriter_engines, bodies=True)
    assert (found(report), report.removed) == ({}, 3 + 1 + 3)
    await store.purge(now + LATER)
    assert await findings(rwriter_engines, bodies=True) == {}
    # without their entries, nothing explains that they are gone
    await execute(rwriter_engines, "DELETE FROM ledger WHERE kind IN ('erased', 'purged')")
    assert await findings(rwriter_engines, bodies=True) == {"missing_row": 10}


async def test_nothing_in_the_entries_names_an_erased_owner(rwriter_engines: TestDbEngines) -> None:
    secret = "tell nobody: 4711"  # noqa: S105 -- a body
    async with writing(rwriter_engines) as writer:
        await writer.send(record(created_by="anna", request_body=secret, response_body=secret), wait="committed")
        await writer.erase("anna")
    async with rwriter_engines.read.connect() as connection:
        entries = str((await connection.execute(text("SELECT CAST(ledger AS text) FROM ledger"))).all())
    assert "anna" not in entries
    assert secret not in entries


async def test_a_dead_letter_is_in_the_ledger_and_so_is_its_purge(rwriter_engines: TestDbEngines) -> None:
    await refuse_bad_bodies(rwriter_engines)
    async with writing(rwriter_engines) as writer:
        for body in ("good", "bad", "good", "bad"):
            await writer.send(record(response_body=body))
    assert (writer.stats.persisted, writer.stats.dead) == (2, 2)
    assert await findings(rwriter_engines, bodies=True) == {}
    assert await execute(rwriter_engines, "DELETE FROM dead_letters WHERE id = (SELECT id FROM dead_letters LIMIT 1)")
    assert await findings(rwriter_engines) == {"missing_letter": 1}
    assert await DeadLetters(rwriter_engines).purge(datetime.now(UTC) + LATER) == 1
    assert await findings(rwriter_engines) == {"missing_letter": 1}


@pytest.mark.parametrize("partitioned", ["week"], indirect=True)
async def test_a_dropped_partition_explains_the_ids_in_it(rwriter_engines: TestDbEngines) -> None:
    last_week = datetime.now(UTC) - timedelta(days=7)
    async with writing(rwriter_engines) as writer:
        for _ in range(3):
            await writer.send(record(request_id=id_at(last_week)))
    await written(rwriter_engines)
    assert len(await drop(rwriter_engines, datetime.now(UTC))) == 1
    report = await audit(rwriter_engines, bodies=True)
    assert (found(report), report.removed) == ({}, 3)

"""Each fault that somebody plants in the tables is found and named, and a sound ledger gives nothing."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import delete, select

from rwriter._chain.secret import VARIABLE
from rwriter.cli._main import app
from rwriter.ledger import audit, heads_in
from rwriter.ledger._audit._findings import MEANINGS
from rwriter.schema import ledger, requests
from rwriter.testing import TestDbEngines
from tests.docs.pages import ROOT
from tests.support.ledgers import execute, findings, found, writing, written
from tests.support.records import new_request, record

TABLES: Final = ("request_templates", "requests", "ledger")
LAST_LANE: Final = "(SELECT writer_id FROM ledger WHERE kind = 'stored' GROUP BY 1 ORDER BY count(*) DESC LIMIT 1)"
ONE: Final = "(SELECT id FROM requests ORDER BY id LIMIT 1)"
LAST: Final = f"(SELECT {LAST_LANE}, max(seq) FROM ledger WHERE writer_id = {LAST_LANE})"
BY_HAND: Final = """
    INSERT INTO requests (created_by, service_tier, state, response_status, response_body, completed_at, model)
    VALUES ('t', 'priority', 'completed', 200, '', now(), 'm')
"""
MADE_UP: Final = f"""
    WITH gone AS (DELETE FROM requests WHERE id = {ONE} RETURNING id)
    INSERT INTO ledger (writer_id, seq, kind, ids, number, digest, previous, account)
    SELECT '01a00000-0000-7000-8000-000000000000', 1, 'purged', ARRAY[id], 1, '\\x00', decode(repeat('00', 32), 'hex'),
        (SELECT account FROM ledger WHERE kind = 'opened')
    FROM gone
"""

FAULTS: Final[dict[str, tuple[str, dict[str, int]]]] = {
    "a row deleted": (f"DELETE FROM requests WHERE id = {ONE}", {"missing_row": 1}),
    "a status changed": (f"UPDATE requests SET response_status = 201 WHERE id = {ONE}", {"changed_row": 1}),
    "an owner changed": (f"UPDATE requests SET created_by = 'other' WHERE id = {ONE}", {"changed_row": 1}),
    "a time changed": (
        f"UPDATE requests SET completed_at = completed_at + interval '1 microsecond' WHERE id = {ONE}",
        {"changed_row": 1},
    ),
    "an answer changed": (f"UPDATE requests SET response_body = 'No.' WHERE id = {ONE}", {"changed_body": 1}),
    "a question changed": (f"UPDATE request_templates SET body = 'Why?' WHERE id = {ONE}", {"changed_body": 1}),
    "a row inserted by hand": (BY_HAND, {"unrecorded_row": 1}),
    "an entry removed from the middle": (
        f"DELETE FROM ledger WHERE writer_id = {LAST_LANE} AND seq = 1",
        {"missing_entries": 1, "unrecorded_row": 5, "wrong_account": 5},
    ),
    "the end of a chain cut off": (
        f"DELETE FROM ledger WHERE (writer_id, seq) = {LAST}",
        {"cut_tail": 1, "unrecorded_row": 5, "wrong_account": 5},
    ),
    "an entry's ids changed": (
        f"UPDATE ledger SET ids[1] = gen_random_uuid() WHERE writer_id = {LAST_LANE} AND seq = 1",
        {"altered_entry": 1, "missing_row": 1, "unrecorded_row": 1},
    ),
    "a record said to be skipped": (
        f"UPDATE ledger SET skipped = ids[1:1], number = number - 1 WHERE writer_id = {LAST_LANE} AND seq = 1",
        {"altered_entry": 1, "wrong_account": 1},
    ),
    "a record of a last entry said to be skipped": (
        f"UPDATE ledger SET skipped = ids[1:1], number = number - 1 WHERE (writer_id, seq) = {LAST}",
        {"altered_entry": 1, "wrong_account": 1},
    ),
    "a purge made up": (MADE_UP, {"altered_entry": 1}),
}


@pytest.mark.both_variants
async def test_a_sound_ledger_gives_nothing(rwriter_engines: TestDbEngines) -> None:
    await written(rwriter_engines)
    report = await audit(rwriter_engines, bodies=True)
    assert found(report) == {}
    assert (report.exit_code, report.records, report.rows, report.writers) == (0, 20, 20, 1)


async def test_each_fault_is_found_and_named(rwriter_engines: TestDbEngines) -> None:
    await written(rwriter_engines)
    await execute(rwriter_engines, *(f"CREATE TABLE sound_{name} AS SELECT * FROM {name}" for name in TABLES))
    results: dict[str, dict[str, int]] = {}
    for fault, (statement, _) in FAULTS.items():
        assert await execute(rwriter_engines, statement) == 1
        report = await audit(rwriter_engines, bodies=True)
        assert report.exit_code == 1, fault
        results[fault] = found(report)
        await execute(rwriter_engines, f"TRUNCATE {', '.join(TABLES)} CASCADE")
        await execute(rwriter_engines, *(f"INSERT INTO {name} SELECT * FROM sound_{name}" for name in TABLES))
    assert results == {fault: expected for fault, (_, expected) in FAULTS.items()}
    assert await findings(rwriter_engines, bodies=True) == {}


async def test_a_tail_that_was_cut_with_its_rows_is_found_by_a_head_that_was_kept(
    rwriter_engines: TestDbEngines,
) -> None:
    await written(rwriter_engines)
    kept = heads_in(f"INFO rwriter: ledger head {head}" for head in (await audit(rwriter_engines)).heads)
    assert await findings(rwriter_engines, heads=kept) == {}
    await execute(
        rwriter_engines,
        f"DELETE FROM requests WHERE id = ANY (SELECT unnest(ids) FROM ledger WHERE (writer_id, seq) = {LAST})",
        f"DELETE FROM ledger WHERE (writer_id, seq) = {LAST}",
        "DELETE FROM ledger WHERE kind = 'closed'",
    )
    # as if the writer were open still
    assert await findings(rwriter_engines) == {}
    assert await findings(rwriter_engines, heads=kept) == {"cut_tail": 2}


async def test_a_writer_that_has_been_silent_without_closing_is_named(rwriter_engines: TestDbEngines) -> None:
    await written(rwriter_engines, channel_capacity=77)
    await execute(
        rwriter_engines,
        "DELETE FROM ledger WHERE kind = 'closed'",
        "UPDATE ledger SET at = at - interval '1 hour'",
    )
    report = await audit(rwriter_engines)
    assert found(report) == {"not_closed": 77}
    assert "last heard of at" in str(report.findings[0])


async def test_entries_of_another_secret_cannot_be_told_and_unkeyed_ones_are_named(
    rwriter_engines: TestDbEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(rwriter_engines)
    monkeypatch.setenv(VARIABLE, "another")
    report = await audit(rwriter_engines)
    assert (found(report), report.exit_code) == ({"unknown_key": 1}, 2)
    assert await findings(rwriter_engines, secrets=["a secret that the database does not know"]) == {}
    monkeypatch.delenv(VARIABLE)
    await written(rwriter_engines)
    monkeypatch.setenv(VARIABLE, "a secret that the database does not know")
    assert await findings(rwriter_engines) == {"unkeyed": 1}


async def test_an_audit_since_a_moment_follows_from_the_entries_before_it(rwriter_engines: TestDbEngines) -> None:
    old = await written(rwriter_engines)
    await execute(
        rwriter_engines,
        "UPDATE ledger SET at = at - interval '9 days' WHERE kind <> 'closed'",
        "UPDATE requests SET created_at = created_at - interval '9 days'",
    )
    await written(rwriter_engines)
    report = await audit(rwriter_engines, since=datetime.now(UTC) - timedelta(days=7))
    assert (found(report), report.records, report.rows) == ({}, 20, 20)
    assert len(old) == 20


async def test_one_writer_alone_can_be_asked_for(rwriter_engines: TestDbEngines) -> None:
    await written(rwriter_engines)
    async with writing(rwriter_engines) as writer:
        await writer.send(record(), wait="committed")
        assert writer._book is not None
    report = await audit(rwriter_engines, writer=writer._book.writer_id)
    assert (found(report), report.records, report.writers) == ({}, 1, 1)


async def test_without_a_ledger_nothing_can_be_told(rwriter_engines: TestDbEngines) -> None:
    assert (await audit(rwriter_engines)).exit_code == 2


async def test_rows_that_are_older_than_the_ledger_are_counted_and_are_no_finding(
    rwriter_engines: TestDbEngines,
) -> None:
    await written(rwriter_engines, 3, ledger=False)
    await written(rwriter_engines)
    report = await audit(rwriter_engines)
    assert (found(report), report.older) == ({}, 3)


async def test_a_redelivery_and_a_row_begun_before_are_explained(rwriter_engines: TestDbEngines) -> None:
    begun = new_request()
    finished = record(
        request_id=begun.request_id, request_body=begun.body, created_by=begun.created_by, response_body="late"
    )
    async with writing(rwriter_engines) as writer:
        await writer.store.create_realtime(begun)
        again = record()
        for each in (again, finished, record()):
            await writer.send(each)
        await writer.flush()
        await writer.send(again)
    assert (writer.stats.persisted, writer.stats.skipped) == (3, 1)
    assert await findings(rwriter_engines, bodies=True) == {}
    await execute(rwriter_engines, "UPDATE requests SET response_body = 'other' WHERE response_body = 'late'")
    assert await findings(rwriter_engines, bodies=True) == {"changed_body": 1}


@pytest.mark.both_schemas
async def test_the_command_ends_with_the_audits_code_and_names_each_finding(
    engines: TestDbEngines, database: str, schema: str | None, tmp_path: Path
) -> None:
    await written(engines)
    where = ["--database-url", database, *([] if schema is None else ["--schema", schema])]
    kept = str(tmp_path / "heads")

    async def run(*options: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["audit", *options, *where])

    sound = await run("--bodies", "--save-heads", kept)
    assert (sound.exit_code, sound.output.splitlines()[-1]) == (0, "everything is explained")
    async with engines.write.begin() as connection:
        await connection.execute(
            delete(requests).where(requests.c.id == select(requests.c.id).limit(1).scalar_subquery())
        )
        await connection.execute(delete(ledger).where(ledger.c.kind == "closed"))
    told = await run("--head", kept)
    assert told.exit_code == 1
    assert "missing_row: 1 records have no row" in told.output
    assert "cut_tail: 1 entries" in told.output
    as_json = json.loads((await run("--since", "1d", "--json")).output)
    assert [each["kind"] for each in as_json["findings"]] == ["missing_row"]
    assert as_json["exit_code"] == 1


def test_the_page_names_every_finding() -> None:
    page = (ROOT / "docs/explanation/ledger.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == set(MEANINGS)

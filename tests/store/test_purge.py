"""purge: bodies alone, budgets, what a chunk costs, and rows that a service's own tables refer to."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import CompletedRequest, Purge, RequestStore, new_request_id
from rwriter.schema import TOMBSTONE_OWNER, dead_letters, request_templates, requests
from rwriter.store._removal import _purge, _rows
from tests.support.driving import eventually
from tests.support.records import record
from tests.support.rows import in_state, insert_request, one, quoted, rows, run_sql, template_of

OLD = datetime(2025, 1, 1, tzinfo=UTC)
CUT = datetime(2025, 6, 1, tzinfo=UTC)
NEW = datetime(2026, 1, 1, tzinfo=UTC)


def old(number: int = 0, **changes: Any) -> CompletedRequest:
    began = OLD + timedelta(seconds=number)
    return record(**({"started_at": began, "completed_at": began + timedelta(seconds=1)} | changes))


async def letter(engine: AsyncEngine, moment: datetime = OLD) -> None:
    async with engine.begin() as connection:
        row = {
            "request_id": new_request_id(),
            "created_by": "tenant-a",
            "error": "x",
            "payload": b"",
            "created_at": moment,
        }
        await connection.execute(insert(dead_letters).values(row))


@pytest.mark.both_schemas("RequestStore.purge")
async def test_bodies_go_and_the_rows_stay_with_their_numbers(store: RequestStore, engine: AsyncEngine) -> None:
    facts: dict[str, Any] = {
        "input_tokens": 7, "output_tokens": 8, "metadata": {"trace": "t-1"}, "request_body": "asked ü",
    }  # fmt: skip
    good, bad = old(**facts, response_body="told ü"), old(1, **facts, status_code=500, response_body="broken")
    young = old(started_at=CUT, completed_at=CUT)
    await store.persist_completed([good, bad, young])
    before = {row["id"]: row for row in await rows(engine, requests)}
    templates = {row["id"]: row for row in await rows(engine, request_templates)}
    await letter(engine)

    assert await store.purge(CUT, bodies_only=True) == Purge(2, 1, remaining=False)

    changed = {"response_body", "error", "updated_at", "xmin"}
    for given in (good, bad, young):
        row, template = await one(engine, requests, given.request_id), await template_of(engine, given.request_id)
        kept = set(row) - (set() if given is young else changed)
        assert {name: row[name] for name in kept} == {name: before[given.request_id][name] for name in kept}
        for name in ("path", "metadata", "body_byte_size", "api_key"):
            assert template[name] == templates[given.request_id][name]
        assert template["body"] == ("" if given is not young else given.request_body)
    assert (await one(engine, requests, good.request_id))["response_body"] == ""
    failed = await one(engine, requests, bad.request_id)
    assert (failed["response_body"], failed["error"], failed["response_size"]) == ("", "", 6)
    detail = await store.get_request(bad.request_id)
    assert detail is not None
    assert (detail.status, detail.body, detail.response_body, detail.input_tokens) == ("failed", "", "", 7)
    # nothing is emptied twice, and what came late is found behind any number of emptied rows
    await store.persist_completed([late := old(2, response_body="", request_body="late")])
    assert await store.purge(CUT, bodies_only=True) == Purge(1, 0, remaining=False)
    assert (await template_of(engine, late.request_id))["body"] == ""
    assert await store.purge(CUT, bodies_only=True) == Purge(0, 0, remaining=False)
    assert await store.purge(CUT) == Purge(3, 0, remaining=False)


async def test_emptying_takes_a_bounded_number_at_a_time_and_passes_over_locked_rows(
    store: RequestStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "CHUNK", 4)
    given = [old(number) for number in range(11)]
    await store.persist_completed(given)
    async with engine.begin() as connection:
        await connection.execute(select(requests).where(requests.c.id == given[1].request_id).with_for_update())
        assert await store.purge(CUT, bodies_only=True, limit=6) == Purge(6, 0, remaining=True)
        assert await store.purge(CUT, bodies_only=True) == Purge(4, 0, remaining=False)
    assert [row["id"] for row in await rows(engine, requests) if row["response_body"]] == [given[1].request_id]
    assert await store.purge(CUT, bodies_only=True, limit=6) == Purge(1, 0, remaining=False)


async def test_the_body_of_a_template_goes_with_the_youngest_row_that_uses_it(
    store: RequestStore, engine: AsyncEngine
) -> None:
    await store.persist_completed([given := old(), of_file := old(1)])
    async with engine.begin() as connection:
        its = request_templates.c.id == of_file.request_id
        await connection.execute(update(request_templates).where(its).values(file_id=new_request_id()))
    await insert_request(engine, template_id=given.request_id, created_at=NEW, created_by="tenant-b")
    assert await store.purge(CUT, bodies_only=True) == Purge(2, 0, remaining=False)
    assert await store.purge(CUT, bodies_only=True) == Purge(0, 0, remaining=False)
    bodies = [(await template_of(engine, each.request_id))["body"] for each in (given, of_file)]
    assert bodies == [given.request_body, of_file.request_body]


@pytest.mark.parametrize("bodies_only", [False, True])
async def test_a_budget_ends_it_between_two_chunks(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch, bodies_only: bool
) -> None:
    monkeypatch.setattr(_rows, "CHUNK", 2)
    await store.persist_completed([old(number) for number in range(6)])
    with monkeypatch.context() as patch:
        clock = itertools.count()
        patch.setattr(_purge, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
        # looked at when it begins, and four times a chunk
        budget = timedelta(seconds=6)
        assert await store.purge(CUT, bodies_only=bodies_only, budget=budget) == Purge(4, 0, remaining=True)
    hour = timedelta(hours=1)
    assert await store.purge(CUT, bodies_only=bodies_only, budget=hour) == Purge(2, 0, remaining=False)


@pytest.mark.parametrize("wrong", [{"budget": timedelta(0)}, {"rest": -1.0}, {"limit": 0}])
async def test_bounds_that_make_no_sense_are_refused_by_name(store: RequestStore, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await store.purge(CUT, **wrong)


@pytest.mark.both_schemas("RequestStore.purgeable")
async def test_what_a_purge_would_find_is_counted_and_left(store: RequestStore, engine: AsyncEngine) -> None:
    await store.persist_completed([old(), old(1), record(started_at=NEW, completed_at=NEW)])
    await letter(engine)
    await store.purge(OLD + timedelta(seconds=1), bodies_only=True)
    await letter(engine)
    assert await store.purgeable(CUT) == Purge(2, 1, remaining=True)
    assert await store.purgeable(CUT, bodies_only=True) == Purge(1, 1, remaining=True)
    assert await store.purgeable(OLD) == Purge(0, 0, remaining=False)
    assert len(await rows(engine, requests)) == 3


@pytest.mark.both_schemas("RequestStore.oldest_finished")
async def test_the_oldest_that_may_go_is_told(store: RequestStore, engine: AsyncEngine) -> None:
    assert await store.oldest_finished() is None
    await insert_request(engine, created_at=OLD, **in_state("processing", service_tier="priority"))
    await insert_request(engine, created_at=OLD, **in_state("completed"))  # tier flex
    assert await store.oldest_finished() is None
    await store.persist_completed([old(9), old(5), old(7)])
    assert await store.oldest_finished() == OLD + timedelta(seconds=5)


async def index_entries_read(engine: AsyncEngine) -> int:
    # of partitions together: each has an index of its own
    query = """
        SELECT sum(idx_tup_read) FROM pg_stat_user_indexes s
        LEFT JOIN (pg_inherits JOIN pg_class whole ON whole.oid = inhparent) ON inhrelid = s.indexrelid
        WHERE coalesce(whole.relname, s.indexrelname) = 'ix_requests_created_at_id'
    """
    return int((await run_sql(engine, query))[0][0])


@pytest.mark.costs
@pytest.mark.parametrize("bodies_only", [False, True])
async def test_a_chunk_beside_an_open_snapshot_reads_nothing_of_what_went_before(
    store: RequestStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, bodies_only: bool
) -> None:
    number, chunk = 1_000, 50
    monkeypatch.setattr(_rows, "CHUNK", chunk)
    await store.persist_completed([old(each) for each in range(number)])
    await run_sql(engine, "ANALYZE requests")
    before = await index_entries_read(engine)
    async with engine.connect() as watching:
        await watching.execution_options(isolation_level="REPEATABLE READ")
        assert (await watching.execute(text("SELECT count(*) FROM requests"))).scalar_one() == number
        assert await store.purge(CUT, bodies_only=bodies_only) == Purge(number, 0, remaining=False)

        async def counted() -> bool:
            # told when the connections of the purge are closed
            return await index_entries_read(engine) - before >= number

        await eventually(counted)
    # as many and no more, but for a few of each chunk's own; read anew by each chunk it would be ten times as many
    assert await index_entries_read(engine) - before <= 2 * number


@pytest.fixture
async def invoices(engine: AsyncEngine, schema: str | None) -> str:
    """A table of the service's own that refers to requests."""
    return await referring(engine, schema, "")


async def referring(engine: AsyncEngine, schema: str | None, rule: str) -> str:
    name = f"{quoted(schema)}.invoices"
    await run_sql(
        engine, f"CREATE TABLE {name} (request_id uuid PRIMARY KEY REFERENCES {quoted(schema)}.requests {rule})"
    )
    return name


async def state_of(engine: AsyncEngine, given: CompletedRequest) -> tuple[Any, ...]:
    row = await one(engine, requests, given.request_id)
    return row["state"], row["created_by"], row["response_body"], row["input_tokens"]


BLANK = ("canceled", TOMBSTONE_OWNER, None, None)


@pytest.mark.both_schemas("RequestStore.purge", "RequestStore.erase", "RequestStore.delete_request")
async def test_rows_that_a_foreign_key_protects_are_blanked_counted_and_told_of_once(
    store: RequestStore, engine: AsyncEngine, invoices: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept, erased, deleted = old(input_tokens=5), old(1, created_by="tenant-b"), old(2, created_by="tenant-c")
    billed = (kept, erased, deleted)
    await store.persist_completed([*billed, old(3), old(4, created_by="tenant-b")])
    for each in billed:
        await run_sql(engine, f"INSERT INTO {invoices} VALUES ('{each.request_id}')")
    assert (await store.erase("tenant-b")).requests == 2
    assert (await store.erase("tenant-b")).requests == 0
    assert await store.delete_request(deleted.request_id)
    assert not await store.delete_request(deleted.request_id)
    assert await store.purge(CUT) == Purge(2, 0, remaining=False)
    assert [await state_of(engine, each) for each in billed] == [BLANK] * 3
    assert await rows(engine, request_templates) == []
    assert [await store.get_request(each.request_id) for each in billed] == [None] * 3
    assert (await store.list_requests()).data == []
    assert [message for message in caplog.messages if "invoices_request_id_fkey" in message] == caplog.messages
    assert len(caplog.messages) == 1
    # counted once, and gone when nothing refers to them
    assert await store.purge(CUT) == Purge(0, 0, remaining=False)
    await run_sql(engine, f"DELETE FROM {invoices}")
    assert await store.purge(CUT) == Purge(3, 0, remaining=False)


@pytest.mark.parametrize("rule", ["DEFERRABLE INITIALLY DEFERRED", "ON DELETE CASCADE", "ON DELETE RESTRICT"])
async def test_whatever_the_rule_of_the_foreign_key_it_stops_nothing(
    store: RequestStore, engine: AsyncEngine, schema: str | None, rule: str
) -> None:
    invoices = await referring(engine, schema, rule)
    given = [old(number) for number in range(3)]
    await store.persist_completed(given)
    await run_sql(engine, f"INSERT INTO {invoices} VALUES ('{given[1].request_id}')")
    if "CASCADE" in rule:
        # a table behind it refers to it in turn, and lets nothing go
        await run_sql(engine, f"CREATE TABLE {quoted(schema)}.lines (invoice uuid REFERENCES {invoices})")
        await run_sql(engine, f"INSERT INTO {quoted(schema)}.lines VALUES ('{given[1].request_id}')")
    assert await store.purge(CUT) == Purge(3, 0, remaining=False)
    assert await state_of(engine, given[1]) == BLANK
    assert {row["created_by"] for row in await rows(engine, requests)} == {TOMBSTONE_OWNER}
    await run_sql(engine, f"TRUNCATE {invoices} CASCADE")
    await store.purge(CUT)
    assert await rows(engine, requests) == []

"""A writer's erase: the buffer and the spool forget an owner, whatever is under way, and nothing comes back."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import (
    CompletedRequest,
    NewRequest,
    RecordSkipped,
    RequestFilter,
    RequestStore,
    RequestsWriter,
    Spool,
    WriterNotOpen,
)
from rwriter.schema import dead_letters, requests
from rwriter.spool._file import FILE_NAME
from rwriter.store import DeadLetters
from rwriter.testing import TestDbEngines
from tests.support.buffer import balanced as in_balance
from tests.support.buffer import channel
from tests.support.driving import eventually
from tests.support.fates import balanced, ids, stored
from tests.support.faults import table_locked, through_a_proxy
from tests.support.records import new_request, record
from tests.support.rows import one, run_sql

OWNER: Final = "subject-4b1d"
"""The owner's name, in every text of theirs."""


def theirs(**changes: Any) -> CompletedRequest:
    began = datetime.now(UTC)
    texts: dict[str, Any] = dict.fromkeys(("request_body", "response_body", "created_by", "custom_id", "model"), OWNER)
    times = {"started_at": began, "completed_at": began}
    return record(**(texts | times | {"metadata": {"who": OWNER}} | changes))


def another(**changes: Any) -> CompletedRequest:
    return theirs(**(dict.fromkeys(("request_body", "response_body", "created_by", "custom_id", "model"), "other")
                     | {"metadata": None} | changes))  # fmt: skip


async def rows_with(engine: AsyncEngine, marker: str) -> dict[str, int]:
    """Return how many rows of each table hold ``marker`` in any column, as text or as bytes."""
    tables = await run_sql(engine, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = {}
    for (table,) in tables:
        texts = (f"t::text LIKE '%{text_}%'" for text_ in (marker, marker.encode().hex()))
        query = f"SELECT count(*) FROM {table} t WHERE {' OR '.join(texts)}"
        if number := (await run_sql(engine, query))[0][0]:
            found[table] = number
    return found


def files_with(folder: Path, marker: str) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and marker.encode() in path.read_bytes()]


# -- the buffer alone


async def test_the_buffer_forgets_what_is_queued_in_flight_and_behind_another() -> None:
    made = channel()
    first = made.send_nowait(theirs())
    (taken,) = await made.take(1, 10**9)
    others = made.send_nowait(another(request_id=new_request().request_id))
    behind = made.send_nowait(theirs(request_id=others.record.request_id))
    queued, head = made.send_nowait(theirs()), made.send_nowait(theirs())
    following = made.send_nowait(another(request_id=head.record.request_id))
    young = made.send_nowait(theirs(started_at=datetime.now(UTC) + timedelta(hours=1)))

    forgotten = made.forget(OWNER, datetime.now(UTC), RecordSkipped("erased"))

    assert (taken, forgotten) == (first, [first, behind, queued, head])
    assert [entry.fate for entry in forgotten] == ["skipped"] * 4
    assert in_balance(made)
    # a flush that gives its batch back, or settles it, changes nothing
    made.give_back([first])
    assert made.settle([first], "persisted") == 0
    assert await made.take(10, 10**9) == [others, young, following]
    made.settle([others, young, following], "persisted")
    assert (made.pending, made.pending_bytes, made.queued) == (0, 0, 0)


async def test_a_sender_that_waits_hears_that_its_owner_was_erased(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines, linger=600) as writer:
        waiting = asyncio.create_task(writer.send(theirs(), wait="committed"))
        await eventually(lambda: writer.stats.pending == 1)
        assert (await writer.erase(f" {OWNER} ")).requests == 0
        with pytest.raises(RecordSkipped, match="erased"):
            await waiting
        assert (writer.stats.skipped, writer.stats.pending) == (1, 0)


async def test_a_writer_that_is_not_open_cannot_look_into_its_spool(rwriter_engines: TestDbEngines) -> None:
    with pytest.raises(WriterNotOpen):
        await RequestsWriter(rwriter_engines).erase(OWNER)


async def test_a_flush_that_is_under_way_brings_nothing_back(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines, retry_base_delay=0.01) as writer:
        async with table_locked(rwriter_engines):
            await writer.send(theirs())
            await writer.send(another())
            erasing = asyncio.create_task(writer.erase(OWNER))
            await eventually(lambda: writer.stats.skipped == 1)
        await asyncio.wait_for(erasing, 30)
        await writer.flush(timeout=30)
        assert balanced(writer.stats)
    assert await rows_with(rwriter_engines.write, OWNER) == {}
    assert len(await stored(rwriter_engines)) == 1


async def test_while_the_database_is_away_buffer_and_spool_forget_and_the_caller_hears_of_it(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_retries": 0, "retry_base_delay": 0.01, "retry_max_delay": 0.05}
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with RequestsWriter(engine, spool=Spool(tmp_path), **options) as writer:
            proxy.cut()
            for one_ in (theirs(), kept := another()):
                await writer.send(one_)
            await writer.flush(timeout=30)
            assert writer.stats.spooled == 2
            with pytest.raises(Exception, match=r".") as failed:
                await writer.erase(OWNER)
            assert not isinstance(failed.value, AssertionError)
            assert files_with(tmp_path, OWNER) == []
            proxy.heal()
            await eventually(lambda: writer.stats.replayed == 1)
            await writer.erase(OWNER)
    assert await stored(rwriter_engines) == ids([kept])


# -- the spool alone


async def test_no_byte_of_an_owners_is_left_in_the_spools_files_of_rows_replayed_long_ago_either(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path)
    await spool.open()
    # many a build of SQLite overwrites what it deletes, and many another does not
    await spool._on_thread(lambda file: file._db.execute("PRAGMA secure_delete = OFF").fetchone())
    kept = [another() for _ in range(20)]
    # small ones, which share pages with others' rows, and large ones with pages of their own
    mixed = [each for other in kept for each in (other, theirs(), theirs(response_body=f"{OWNER} " * 2_000))]
    await spool.put(mixed)
    await spool.put([theirs(started_at=datetime.now(UTC) + timedelta(hours=1), response_body="young")])
    replayed = [row.seq for row in await spool.claim(30, 10**9) if row.record.created_by == OWNER]
    await spool.remove(replayed)
    assert files_with(tmp_path, OWNER)
    assert await spool.forget(OWNER, datetime.now(UTC)) == 40 - len(replayed)
    assert await spool.count() == 21
    named: list[UUID] = []
    assert await spool.forget(OWNER, datetime.now(UTC) + timedelta(days=1), named) == 1
    assert len(named) == 1
    assert files_with(tmp_path, OWNER) == []
    assert await spool.forget("", datetime.now(UTC)) == 0
    await spool.aclose()
    again = Spool(tmp_path)
    await again.open()
    assert ids([row.record for row in await again.claim(100, 10**9)]) == ids(kept)
    await again.aclose()


async def test_damaged_rows_of_an_owners_go_and_damaged_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    await spool.open()
    await spool.put([theirs(), another()])
    await spool.aclose()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as file, file:
        file.execute("UPDATE records SET payload = substr(payload, 1, length(payload) - 5) WHERE seq = 1")
    (tmp_path / f"{FILE_NAME}.corrupt-1").touch()
    await spool.open()
    assert len(await spool.claim(10, 10**9)) == 1  # the other is set aside
    # whose name is in every text of theirs, and who is somebody else
    assert await spool.forget(OWNER[:3], datetime.now(UTC)) == 0
    assert await spool.forget(OWNER, datetime.now(UTC)) == 1
    assert files_with(tmp_path, OWNER) == []
    assert f"{FILE_NAME}.corrupt-1" in caplog.text
    await spool.aclose()


# -- everywhere, under load


@contextlib.asynccontextmanager
async def load(writer: RequestsWriter, sent: list[CompletedRequest]) -> AsyncIterator[None]:
    """Others' records, for as long as the block runs."""

    async def go_on() -> None:
        while True:
            await writer.send(given := another())
            sent.append(given)
            await asyncio.sleep(0)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def spool_with(folder: Path, store: RequestStore, *records: CompletedRequest) -> Spool:
    spool = Spool(folder)
    await spool.open()
    await spool.belongs_to(await store.identity())
    await spool.put(records)
    return spool


async def scatter(engines: TestDbEngines, folder: Path) -> tuple[NewRequest, CompletedRequest, list[dict[str, Any]]]:
    """Put the owner into every place of a database and of two spools.

    Returns the request in flight, another owner's record in the second spool, and the dead letters as a backup has
    them.
    """
    engine, store = engines.write, RequestStore(engines)
    begun, far = new_request(created_by=OWNER, body=OWNER, model=OWNER, path=OWNER), another()
    await store.persist_completed([*(theirs() for _ in range(50)), theirs(status_code=500), billed := theirs()])
    await store.create_realtime(begun)
    await store.bury(theirs(), sqlstate="23514", error=f"refused: {OWNER}")
    await run_sql(engine, "CREATE TABLE invoices (request_id uuid REFERENCES requests)")
    await run_sql(engine, f"INSERT INTO invoices VALUES ('{billed.request_id}')")
    # rows that wait, one that was set aside, traces of one that was replayed
    here = await spool_with(folder / "here", store, theirs(), theirs(), theirs())
    replayed, bad, _ = await here.claim(3, 10**9)
    await here.remove([replayed.seq])
    await here.set_aside([bad.seq], "refused")
    await here.aclose()
    await (await spool_with(folder / "elsewhere", store, theirs(), far)).aclose()
    async with engine.connect() as connection:
        letters = [dict(row) for row in (await connection.execute(select(dead_letters))).mappings()]
    return begun, far, letters


async def test_under_load_nothing_of_an_owners_is_left_anywhere_and_nothing_comes_back(
    rwriter_engines: TestDbEngines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "rwriter")
    engine, here = rwriter_engines.write, tmp_path / "here"
    begun, far, letters = await scatter(rwriter_engines, tmp_path)
    assert (await rows_with(engine, OWNER)).keys() == {"requests", "request_templates", "dead_letters"}
    assert files_with(here, OWNER)

    others: list[CompletedRequest] = []
    options: dict[str, Any] = {"durability": "journal", "linger": 0.05}
    async with RequestsWriter(rwriter_engines, spool=Spool(here, fsync="off"), **options) as writer:
        async with load(writer, others):
            await eventually(lambda: len(others) > 100)
            for _ in range(20):
                await writer.send(theirs())
            erasure = await writer.erase(OWNER)
            again = await writer.erase(OWNER)
            at_least = len(others) + 50
            await eventually(lambda: len(others) > at_least)
        assert (erasure.requests >= 53, erasure.dead_letters) == (True, 1)
        assert (again.requests, again.dead_letters, again.erased_at > erasure.erased_at) == (0, 0, True)
        await writer.flush(timeout=60)
        assert balanced(writer.stats)
        assert files_with(here, OWNER) == []
    assert await rows_with(engine, OWNER) == {}
    assert files_with(here, OWNER) == []
    assert OWNER not in caplog.text

    # replays bring nothing back: of the other host's spool, of a letter out of a backup, of a late answer
    async with RequestsWriter(rwriter_engines, spool=Spool(tmp_path / "elsewhere"), replay_interval=0.02) as other_host:
        await eventually(lambda: other_host.stats.replayed == 2)
        await other_host.send(theirs(request_id=begun.request_id, started_at=erasure.erased_at))
    async with engine.begin() as connection:
        await connection.execute(insert(dead_letters), letters)
    assert await DeadLetters(engine).replay() == (1, 0)
    assert await rows_with(engine, OWNER) == {}
    blank = await one(engine, requests, begun.request_id)
    assert (blank["state"], blank["created_by"]) == ("canceled", "")
    store = RequestStore(rwriter_engines)
    assert await store.get_request(begun.request_id) is None
    assert (await store.list_requests(RequestFilter(created_by=""))).data == []
    async with engine.connect() as connection:
        kept = set((await connection.execute(select(requests.c.id).where(requests.c.created_by == "other"))).scalars())
    assert kept == ids(others) | {far.request_id}

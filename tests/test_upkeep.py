"""Upkeep on a writer: retention by one process at a time, which hurts no flush and ends with the writer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import CompletedRequest, RequestStore, RequestsWriter, Upkeep
from rwriter.schema import requests
from rwriter.store._removal import _rows
from rwriter.testing import TestDbEngines
from rwriter.upkeep import keep_up
from tests.support.driving import eventually
from tests.support.records import new_request, record
from tests.support.rows import one, rows, run_sql

SOON = timedelta(milliseconds=10)


def aged(days: float, **changes: Any) -> CompletedRequest:
    began = datetime.now(UTC) - timedelta(days=days)
    return record(started_at=began, completed_at=began + timedelta(seconds=1), **changes)


async def stored(engine: AsyncEngine) -> set[Any]:
    return {row["id"] for row in await rows(engine, requests)}


def gone(engine: AsyncEngine, *given: CompletedRequest) -> Callable[[], Any]:
    async def look() -> bool:
        return not {each.request_id for each in given} & await stored(engine)

    return look


async def test_rows_are_deleted_emptied_and_failed_at_their_ages(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rwriter")
    engine, store = rwriter_engines.write, RequestStore(rwriter_engines)
    old, middle, young, begun = aged(100), aged(40), aged(1), new_request()
    await store.persist_completed([old, middle, young])
    await store.create_realtime(begun)
    await run_sql(engine, "UPDATE requests SET started_at = now() - interval '2 hours' WHERE state = 'processing'")
    upkeep = Upkeep(
        purge_after=timedelta(days=90),
        bodies_after=timedelta(days=30),
        fail_stale_after=timedelta(hours=1),
        every=SOON,
        rest=0,
    )
    async with RequestsWriter(rwriter_engines, upkeep=upkeep):
        await eventually(lambda: "deleted 1 requests" in caplog.text)
    assert await stored(engine) == {middle.request_id, young.request_id, begun.request_id}
    assert (await one(engine, requests, middle.request_id))["response_body"] == ""
    assert (await one(engine, requests, young.request_id))["response_body"] == young.response_body
    assert (await one(engine, requests, begun.request_id))["response_status"] == 504
    for words in ("emptied 2 requests", "failed 1 requests"):
        assert words in caplog.text


@pytest.fixture
def statements(rwriter_engines: TestDbEngines) -> Iterator[list[str]]:
    """The statements of the engines, those made of them included."""
    asked: list[str] = []

    def note(*given: Any) -> None:
        asked.append(given[2])

    # on the class it would leave every later engine of the process with events
    event.listen(rwriter_engines.write.sync_engine, "before_cursor_execute", note)
    yield asked
    event.remove(rwriter_engines.write.sync_engine, "before_cursor_execute", note)


async def test_it_waits_while_another_process_does_it(rwriter_engines: TestDbEngines, statements: list[str]) -> None:
    engine, store = rwriter_engines.write, RequestStore(rwriter_engines)
    await store.persist_completed([old := aged(2)])
    async with contextlib.AsyncExitStack() as turn:
        assert await turn.enter_async_context(store.turn("upkeep"))
        async with RequestsWriter(rwriter_engines, upkeep=Upkeep(purge_after=timedelta(days=1), every=SOON)):
            await eventually(lambda: sum("advisory" in each for each in statements) > 3)
            assert old.request_id in await stored(engine)
            assert not any("FOR UPDATE" in each for each in statements)
            await turn.aclose()
            await eventually(gone(engine, old))


async def test_a_job_that_fails_is_logged_and_stops_neither_the_others_nor_a_flush(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    engine, store = rwriter_engines.write, RequestStore(rwriter_engines)
    await store.persist_completed([old := aged(2)])
    await run_sql(
        engine,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'MARKER'; END $$",
    )
    await run_sql(engine, "CREATE TRIGGER no BEFORE UPDATE ON requests FOR EACH ROW EXECUTE FUNCTION no()")
    day = timedelta(days=1)
    async with RequestsWriter(rwriter_engines, upkeep=Upkeep(purge_after=day, bodies_after=day, every=SOON)) as writer:
        await eventually(gone(engine, old))
        await writer.send(new := aged(0), wait="committed")
    assert await stored(engine) == {new.request_id}
    assert "upkeep cannot do all of its work" in caplog.text
    assert "MARKER" not in caplog.text


async def test_closing_the_writer_ends_it_in_the_middle(
    rwriter_engines: TestDbEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "CHUNK", 1)
    engine, store = rwriter_engines.write, RequestStore(rwriter_engines)
    given = [aged(9), aged(8)]
    await store.persist_completed(given)
    writer = RequestsWriter(rwriter_engines, upkeep=Upkeep(purge_after=timedelta(days=1), rest=1e9))
    async with writer:
        await eventually(gone(engine, given[0]))
        # for longer than any drain, it would rest now
        async with asyncio.timeout(5):
            await writer.aclose()
    assert await stored(engine) == {given[1].request_id}
    async with store.turn("upkeep") as mine:
        assert mine


async def test_it_leaves_a_database_alone_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    rounds = []

    def is_up() -> bool:
        rounds.append(1)
        return False

    nowhere = RequestStore(create_async_engine("postgresql+asyncpg://u@127.0.0.1:1/d", poolclass=NullPool))
    upkeep = Upkeep(purge_after=timedelta(days=1), every=SOON)
    task = asyncio.create_task(keep_up(upkeep, nowhere, name="test", is_up=is_up))
    await eventually(lambda: len(rounds) > 2)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert caplog.text == ""


@pytest.mark.parametrize("field", ["purge_after", "bodies_after", "fail_stale_after", "partitions", "every"])
def test_a_time_that_makes_no_sense_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Upkeep(**dict[str, Any]({field: timedelta(0)}))
    with pytest.raises(TypeError, match=f"{field} must be a timedelta"):
        Upkeep(**dict[str, Any]({field: 60}))
    with pytest.raises(TypeError, match="every must be a timedelta"):
        Upkeep(**dict[str, Any](every=None))
    with pytest.raises(ValueError, match="rest"):
        Upkeep(rest=-1)

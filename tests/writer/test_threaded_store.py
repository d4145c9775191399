"""What a writer without an event loop stored is read back without one."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from rwriter import RequestFilter, RequestStore, RwriterError, WriterClosed
from rwriter.testing import TestDbEngines
from rwriter.threaded import SyncRequestStore, ThreadedWriter
from tests.support.faults import table_locked
from tests.support.records import record
from tests.support.sinks import MemorySink


def test_what_was_sent_is_read_listed_counted_and_deleted_from_any_thread(rwriter_database: str) -> None:
    sent = [record(custom_id=f"chatcmpl-{number}", input_tokens=3) for number in range(5)]
    owner, now = sent[0].created_by, datetime.now(UTC)
    with ThreadedWriter(rwriter_database) as writer:
        for item in sent:
            writer.send(item, wait="committed")
        store = writer.store
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(store.get_request, [item.request_id for item in sent]))
        assert [row.response_body for row in read if row is not None] == [item.response_body for item in sent]
        assert store.find_request("chatcmpl-3", owner, consistent=True) == read[3]
        assert store.find_request("chatcmpl-3", "another") is None
        assert store.list_requests(RequestFilter(created_by=owner, limit=2)).total_count == 5
        (group,) = store.usage(since=now - timedelta(days=9999), until=now + timedelta(days=1), by=())
        assert (group.requests, group.input_tokens) == (5, 15)
        assert not store.delete_request(sent[0].request_id, "another")
        assert store.delete_request(sent[0].request_id, owner)
        assert store.get_request(sent[0].request_id) is None
    with pytest.raises(WriterClosed):
        store.get_request(sent[1].request_id)


async def test_an_answer_is_waited_for_no_longer_than_was_said(
    rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    def read(store: SyncRequestStore) -> None:
        with pytest.raises(TimeoutError):
            store.get_request(UUID(int=1), timeout=0.05)

    with await asyncio.to_thread(ThreadedWriter(rwriter_database).open) as writer:
        async with table_locked(rwriter_engines):
            await asyncio.to_thread(read, writer.store)
        assert await asyncio.to_thread(writer.store.get_request, UUID(int=1)) is None
        await asyncio.to_thread(writer.close)


def test_engines_of_a_test_are_handed_over_as_they_are_and_the_environment_names_a_database(
    rwriter_database: str, rwriter_engines: TestDbEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = record()
    with ThreadedWriter(rwriter_engines) as writer:
        writer.send(item)
    with pytest.raises(RwriterError, match="RWRITER_DATABASE_URL"):
        ThreadedWriter().open()
    monkeypatch.setenv("RWRITER_DATABASE_URL", rwriter_database)
    with ThreadedWriter() as writer:
        assert writer.store.get_request(item.request_id) is not None


def test_a_writer_to_another_sink_has_no_store() -> None:
    with ThreadedWriter(MemorySink) as writer, pytest.raises(RwriterError, match="MemorySink"):
        _ = writer.store


def test_its_methods_take_what_the_stores_own_take() -> None:
    methods = [name for name, _ in inspect.getmembers(SyncRequestStore, inspect.isfunction) if not name.startswith("_")]
    assert len(methods) == 5
    for name in methods:
        own = inspect.signature(getattr(RequestStore, name)).parameters
        assert [*own, "timeout"] == list(inspect.signature(getattr(SyncRequestStore, name)).parameters)

"""Reading one's own writes, wherever they are."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from rwriter import CompletedRequest, DbEngines, NewRequest, RequestStore, RequestsWriter, Spool, new_request_id
from rwriter.asgi._ids import request_id_of, response_id
from rwriter.asgi._reader.lookup import Lookup
from rwriter.asgi._types import Receive, Scope, Send
from rwriter.records import client_ids
from rwriter.store import detail_of
from tests.asgi.conftest import Capture
from tests.support.asgi_client import OWNER, Exchange, read, say
from tests.support.driving import eventually
from tests.support.records import new_request, record, renamed


def ids(stored: CompletedRequest) -> list[str]:
    return [response_id(stored.request_id), *client_ids(stored)]


async def test_a_record_in_the_buffer_is_found_before_it_is_stored(store: RequestStore) -> None:
    sent = record(custom_id="chatcmpl-1")
    async with RequestsWriter(store, linger=60) as writer:
        await writer.send(sent)
        lookup = Lookup(store, writer)
        assert [await lookup.find(known, "tenant-a") for known in ids(sent)] == [detail_of(sent)] * 2
        assert await store.get_request(sent.request_id) is None
        assert [await lookup.find(known, "tenant-b") for known in ids(sent)] == [None, None]
        await writer.flush()
        assert writer.get(sent.request_id) is None
        assert [await lookup.find(known, "tenant-a") for known in ids(sent)] == [detail_of(sent)] * 2
        assert [await lookup.find(known, "tenant-b") for known in ids(sent)] == [None, None]


async def test_both_ids_of_an_answer_that_changed_its_own_find_it_at_each_step(
    store: RequestStore, tmp_path: Path
) -> None:
    sent = renamed()
    spool = Spool(tmp_path)
    async with RequestsWriter(store, spool=spool, linger=60) as writer:
        lookup = Lookup(store, writer)
        await spool.put([sent])
        assert [await lookup.find(known, "tenant-a") for known in ids(sent)] == [detail_of(sent)] * 3
        assert [await lookup.find(known, "tenant-b") for known in ids(sent)] == [None] * 3
        await spool.purge(time.time() + 1)
        await writer.send(sent)
        assert [await lookup.find(known, "tenant-a") for known in ids(sent)] == [detail_of(sent)] * 3
        await writer.flush()
        found = [await lookup.find(known, "tenant-a") for known in ids(sent)]
        assert [one and one.id for one in found] == [sent.request_id] * 3


@pytest.mark.parametrize("known", ["ours", "resp_up"])
async def test_a_call_whose_owner_is_still_being_looked_up_is_waited_for(
    capture: Capture, store: RequestStore, writer: RequestsWriter, known: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await say(send, b'{"id":"resp_up"}')

    async def slow(api_key: str, scope: Scope) -> str:
        await lookup_done.wait()
        return OWNER

    lookup_done = asyncio.Event()
    exchange = await Exchange(capture(app, attribute=slow)).run()
    ours = exchange.headers[b"x-rwriter-id"].decode()
    finding = asyncio.create_task(Lookup(store, writer).find(ours if known == "ours" else known, OWNER))
    await asyncio.sleep(0)
    lookup_done.set()
    found = await finding
    assert found is not None
    assert response_id(found.id) == ours


async def test_a_record_in_the_spool_is_found_while_the_database_is_away(tmp_path: Path) -> None:
    sent = record(custom_id="chatcmpl-1")
    async with DbEngines.from_url("postgresql://nobody@127.0.0.1:1/none") as away:
        spool = Spool(tmp_path)
        async with RequestsWriter(away, spool=spool, max_retries=0, check_schema=False, drain_timeout=0) as writer:
            await writer.send(sent)
            await eventually(lambda: writer.stats.spooled == 1)
            lookup = Lookup(RequestStore(away), writer)
            assert [await lookup.find(known, "tenant-a") for known in ids(sent)] == [detail_of(sent)] * 2
            with pytest.raises(OSError, match="Connect"):
                await lookup.find(response_id(sent.request_id), "tenant-b")


async def test_a_spool_that_cannot_be_read_does_not_hide_what_is_stored(store: RequestStore, tmp_path: Path) -> None:
    stored = record()
    await store.persist_completed([stored])
    lookup = Lookup(store, RequestsWriter(store, spool=Spool(tmp_path)))  # neither is open
    assert await lookup.find(response_id(stored.request_id), "tenant-a") == detail_of(stored)


async def test_the_primary_is_asked_for_what_the_replica_does_not_have_yet(
    rwriter_database: str, empty_database: str
) -> None:
    sent, new = record(custom_id="chatcmpl-1"), new_request()
    async with DbEngines.from_url(rwriter_database, empty_database) as engines:
        # the replica has the tables and lags behind for ever
        from rwriter.migrate import upgrade

        await upgrade(empty_database)
        store = RequestStore(engines)
        await store.persist_completed([sent])
        lookup = Lookup(store)
        assert [await lookup.find(known, "tenant-a") for known in ids(sent)] == [detail_of(sent)] * 2
        await store.create_realtime(new)
        await _copy_begun(engines, new)
        await store.persist_completed([record(request_id=new.request_id)])
        found = await lookup.find(response_id(new.request_id), "tenant-b")
        assert found is not None
        assert found.status == "completed", "the replica says it is still processing"


async def _copy_begun(engines: DbEngines, new: NewRequest) -> None:
    async with engines.read.begin() as connection:
        await connection.execute(text("SET TRANSACTION READ WRITE"))
        await connection.execute(
            text(
                "INSERT INTO requests (id, model, state, daemon_id, claimed_at, started_at, service_tier, created_by) "
                "VALUES (:id, 'm', 'processing', gen_random_uuid(), now(), now(), 'priority', 'tenant-b')"
            ),
            {"id": new.request_id},
        )


async def test_an_upstreams_id_of_our_own_form_is_found_too(store: RequestStore) -> None:
    inner, outer = record(created_by="tenant-b"), record(created_by="tenant-a")
    outer = record(custom_id=response_id(inner.request_id))
    await store.persist_completed([inner, outer])
    found = await Lookup(store).find(response_id(inner.request_id), "tenant-a")
    assert found is not None
    assert found.id == outer.request_id


async def test_of_two_requests_under_one_id_its_own_goes_before_one_in_the_buffer(store: RequestStore) -> None:
    stored = record()
    await store.persist_completed([stored])
    async with RequestsWriter(store, linger=60) as writer:
        await writer.send(record(custom_id=response_id(stored.request_id)))
        found = await Lookup(store, writer).find(response_id(stored.request_id), "tenant-a")
    assert found is not None
    assert found.id == stored.request_id


@pytest.mark.parametrize("has_replica", [False, True])
@pytest.mark.parametrize("buffered", [False, True])
async def test_anothers_id_costs_what_an_unknown_one_does(
    rwriter_database: str, has_replica: bool, buffered: bool
) -> None:
    theirs = record(custom_id="resp_theirs", response_body="x" * 100_000)
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        asked.append((statement, [type(value) for value in parameters]))

    async with DbEngines.from_url(rwriter_database, rwriter_database if has_replica else None) as engines:
        for engine in {engines.read.sync_engine, engines.write.sync_engine}:
            event.listen(engine, "before_cursor_execute", note)
        store = RequestStore(engines)
        async with RequestsWriter(store, linger=60, check_schema=False) as writer:
            await (writer.send(theirs) if buffered else store.persist_completed([theirs]))
            lookup = Lookup(store, writer)
            costs = []
            for given in (response_id(theirs.request_id), response_id(new_request_id()), "resp_theirs", "resp_unknown"):
                asked.clear()
                assert await lookup.find(given, "tenant-b") is None
                costs.append(list(asked))
    assert costs[0] == costs[1]
    assert costs[2] == costs[3]
    assert len(costs[0]) == len(costs[2]) == 1 + has_replica


@pytest.mark.parametrize(
    "given", ["", "resp_", "resp_x", "x" * 10_000, "a\0b", "\ud800", "resp_" + "0" * 36, "0" * 513]
)
async def test_bad_ids_are_just_unknown(store: RequestStore, given: str) -> None:
    assert await Lookup(store).find(given, "tenant-a") is None


def test_only_the_one_form_of_an_id_is_understood() -> None:
    known = record().request_id
    assert request_id_of(response_id(known)) == known
    for other in (
        str(known),
        f"resp_{known.hex}",
        f"resp_{str(known).upper()}",
        f"resp_{{{known}}}",
        f"resp_resp_{known}",
    ):
        assert request_id_of(other) is None

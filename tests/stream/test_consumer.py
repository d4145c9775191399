"""From the stream to the database: stored before it is acknowledged, once, whatever is broken on the way."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from sqlalchemy import text

from rwriter import (
    CompletedRequest,
    JetStreamStore,
    NewRequest,
    RequestStore,
    RequestsWriter,
    SchemaOutdated,
    consume,
)
from rwriter.schema import requests
from rwriter.stream import ConsumerStats, StreamConsumer
from rwriter.stream import _messages as messages
from rwriter.stream._options import ConsumeOptions, Options
from rwriter.testing import SINK_CHECKS, SinkCheck, TestDbEngines
from tests.docs.pages import ROOT
from tests.stream.conftest import MAX_PAYLOAD
from tests.stream.test_store import incompressible
from tests.support.brokers import Broker, asked, raw_messages
from tests.support.consuming import HASTY, consuming, drained, is_empty, kept_behind
from tests.support.driving import eventually
from tests.support.fates import ids, letters, stored
from tests.support.faults import refuse_bad_bodies, table_locked, through_a_proxy
from tests.support.records import record
from tests.support.rows import one
from tests.support.sinks import kept_in


def closes(stats: ConsumerStats) -> bool:
    fates = stats.persisted + stats.skipped + stats.dead + stats.returned
    return stats.received == fates + stats.pending


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
async def test_the_stream_with_its_consumer_is_a_sink(
    check: SinkCheck, store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    await check(store, lambda: kept_behind(broker, stream, rwriter_engines))


async def test_a_writer_and_two_consumers_store_each_record_once(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    records = [record(metadata={"turn": number}) for number in range(300)]
    async with (
        consuming(broker, stream, rwriter_engines) as one_consumer,
        consuming(broker, stream, rwriter_engines) as other,
        RequestsWriter(store, batch_size=10) as writer,
    ):
        for each in records:
            await writer.send(each)
        await writer.flush()
        await eventually(lambda: is_empty(broker, stream))
        await eventually(lambda: one_consumer.stats.lag == other.stats.lag == 0)
    kept = (await kept_in(rwriter_engines.write)).stored
    assert sorted(kept, key=lambda each: each.request_id) == sorted(records, key=lambda each: each.request_id)
    assert one_consumer.stats.persisted + other.stats.persisted == 300
    assert closes(one_consumer.stats)
    assert closes(other.stats)
    assert one_consumer.health.state == other.health.state == "ok"


async def test_a_record_in_parts_is_stored_and_leaves_nothing_behind(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    large = record(response_body=incompressible(5 * MAX_PAYLOAD))
    await store.persist_completed([large])
    await drained(broker, stream, rwriter_engines)
    assert (await kept_in(rwriter_engines.write)).stored == [large]


async def test_a_second_message_for_parts_that_are_gone_is_acknowledged(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    """As after a replay: the server does not know the id of the message any more."""
    large = record(response_body=incompressible(5 * MAX_PAYLOAD))
    await store.persist_completed([large])
    *_, named = await raw_messages(broker, stream)
    await drained(broker, stream, rwriter_engines)
    headers = {name: value for name, value in named.headers.items() if name.startswith("Rwriter")}
    await asked(broker, lambda jetstream: jetstream.publish(f"{stream}.records", headers=headers))
    stats = await drained(broker, stream, rwriter_engines)
    assert (stats.messages, stats.unreadable, stats.received) == (1, 0, 0)
    assert await stored(rwriter_engines) == {large.request_id}


async def test_a_refused_record_is_a_dead_letter_and_the_others_are_stored(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    good, bad = [record() for _ in range(20)], record(response_body="bad")
    await store.persist_completed([*good[:10], bad, *good[10:]])
    stats = await drained(broker, stream, rwriter_engines)
    assert (stats.persisted, stats.dead, stats.returned, stats.messages) == (20, 1, 0, 1)
    assert await stored(rwriter_engines) == ids(good)
    ((letter, sqlstate, _),) = await letters(rwriter_engines)
    assert (letter, sqlstate) == (bad, "23514")


async def test_a_record_refused_with_any_code_is_found_out_by_trying(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    """Its code says that the set-up is wrong; it is alone in its message, and others go in between two deliveries."""
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF NEW.response_body = 'bad' THEN RAISE EXCEPTION USING ERRCODE = '42501'; END IF; RETURN NEW; END $$"
            )
        )
        await connection.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    bad = record(response_body="bad")
    await store.persist_completed([bad])
    good: list[CompletedRequest] = []
    async with consuming(broker, stream, rwriter_engines, concurrency=1) as consumer:

        async def is_buried_beside_others() -> bool:
            if consumer.stats.persisted == len(good):
                good.append(record())
                await store.persist_completed(good[-1:])
            return consumer.stats.dead == 1

        await eventually(is_buried_beside_others)
        await eventually(lambda: is_empty(broker, stream))
    assert await stored(rwriter_engines) == ids(good)
    assert [letter for letter, _, _ in await letters(rwriter_engines)] == [bad]
    assert closes(consumer.stats)


async def test_what_was_buried_before_the_stream_is_a_dead_letter(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    large = record(response_body=incompressible(3 * MAX_PAYLOAD))
    await store.bury(large, sqlstate=None, error="why")
    await drained(broker, stream, rwriter_engines)
    ((letter, sqlstate, error),) = await letters(rwriter_engines)
    assert (letter, sqlstate or "", error) == (large, "", "why")


async def test_messages_wait_in_the_stream_while_the_database_is_away(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    records = [record() for _ in range(30)]
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        async with consuming(broker, stream, TestDbEngines(engine)) as consumer:
            await store.persist_completed(records[:1])
            await eventually(lambda: consumer.stats.persisted == 1)
            proxy.cut()
            for each in records[1:]:
                await store.persist_completed([each])
            await eventually(lambda: consumer.health.state == "holding" and consumer.stats.returned > 0)
            assert consumer.stats.persisted == 1
            proxy.heal()
            await eventually(lambda: is_empty(broker, stream))
            assert consumer.health.state == "ok"
    assert await stored(rwriter_engines) == ids(records)
    assert closes(consumer.stats)


async def test_a_consumer_killed_in_the_middle_has_its_message_stored_by_another(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    records = [record() for _ in range(5)]
    await store.persist_completed(records)
    consumer = StreamConsumer(broker.url, rwriter_engines, stream=stream, ack_wait=0.5)
    async with table_locked(rwriter_engines):
        running = asyncio.create_task(consumer.run(asyncio.Event()))
        await eventually(lambda: consumer.stats.pending == 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    stats = await drained(broker, stream, rwriter_engines)
    assert (stats.redelivered, stats.received, stats.persisted) == (1, 5, 5)
    assert await stored(rwriter_engines) == ids(records)


async def test_the_server_is_told_of_a_message_that_takes_long(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    """It would be given to another consumer otherwise, once ``ack_wait`` is over."""
    await store.persist_completed([record()])
    client = await nats.connect(broker.url)
    answers = await client.subscribe(f"$JS.ACK.{stream}.>")
    try:
        async with consuming(broker, stream, rwriter_engines, ack_wait=0.3):
            async with table_locked(rwriter_engines):
                for _ in range(3):
                    assert (await answers.next_msg(timeout=30)).data == Msg.Ack.Progress
            await eventually(lambda: is_empty(broker, stream))
    finally:
        await client.close()


async def test_shutting_down_finishes_what_is_in_hand(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    await store.persist_completed([record()])
    shutdown = asyncio.Event()
    async with table_locked(rwriter_engines):
        consumer = StreamConsumer(broker.url, rwriter_engines, stream=stream, **HASTY)
        running = asyncio.create_task(consumer.run(shutdown))
        await eventually(lambda: consumer.stats.pending == 1)
        shutdown.set()
    await asyncio.wait_for(running, 60)
    assert await is_empty(broker, stream)
    assert (consumer.stats.persisted, consumer.stats.pending, consumer.stats.messages) == (1, 0, 1)


async def test_an_erased_owner_does_not_come_back_from_the_stream(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    gone, stays = record(created_by="tenant-gone"), record()
    await store.persist_completed([gone, stays])
    await store.bury(record(created_by="tenant-gone"), sqlstate=None, error="why")
    await RequestStore(rwriter_engines).erase("tenant-gone")
    stats = await drained(broker, stream, rwriter_engines)
    assert await stored(rwriter_engines) == {stays.request_id}
    assert await letters(rwriter_engines) == []
    assert (stats.persisted, stats.skipped) == (1, 1)


async def test_a_row_that_was_begun_is_finished_through_the_stream(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    done = record()
    await RequestStore(rwriter_engines).create_realtime(NewRequest.before(done))
    await store.persist_completed([done])
    await drained(broker, stream, rwriter_engines)
    assert (await one(rwriter_engines.write, requests, done.request_id))["state"] == "completed"


async def test_a_message_that_nobody_can_read_stays_and_holds_up_no_other(
    store: JetStreamStore, broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    foreign: list[tuple[bytes, dict[str, str]]] = [
        (b"not ours", {}),
        (b"damaged", {messages.CONTENT: messages.RECORDS}),
        (messages.pack_records([record()]), {messages.CONTENT: "records-99"}),
        (b"", {messages.CONTENT: messages.RECORDS, messages.PARTS: "many"}),
    ]
    for payload, headers in foreign:
        await asked(
            broker,
            lambda jetstream, payload=payload, headers=headers: jetstream.publish(  # type: ignore[misc]
                f"{stream}.records", payload, headers=headers
            ),
        )
    good = record()
    await store.persist_completed([good])
    async with consuming(broker, stream, rwriter_engines) as consumer:
        await eventually(lambda: consumer.stats.unreadable > 2 * len(foreign))
    assert await stored(rwriter_engines) == {good.request_id}
    assert len(await raw_messages(broker, stream)) == len(foreign)


async def test_a_stream_that_comes_later_is_waited_for(
    broker: Broker, stream: str, rwriter_engines: TestDbEngines
) -> None:
    async with consuming(broker, stream, rwriter_engines) as consumer:
        await eventually(lambda: consumer.health.state == "holding")
        assert consumer.health.error == f"there is no stream {stream}"
        async with JetStreamStore(broker.url, stream=stream) as store:
            await store.create_stream(max_bytes=1_000_000)
            await store.persist_completed([record()])
        await eventually(lambda: consumer.stats.persisted == 1)
        assert consumer.health.state == "ok"


async def test_a_server_that_comes_later_or_goes_is_waited_for(
    tmp_path: Path, stream: str, rwriter_engines: TestDbEngines
) -> None:
    broker = Broker(tmp_path)
    try:
        async with (
            consuming(broker, stream, rwriter_engines) as consumer,
            JetStreamStore(broker.url, stream=stream) as store,
        ):
            for number in (1, 2):
                await eventually(lambda: consumer.health.state == "holding")
                await asyncio.to_thread(broker.start)
                await store.create_stream(max_bytes=1_000_000)
                await store.persist_completed([record()])
                await eventually(lambda number=number: consumer.stats.persisted == number)  # type: ignore[misc]
                assert consumer.health.state == "ok"
                await asyncio.to_thread(broker.kill)
    finally:
        broker.kill()


async def test_a_database_that_is_not_migrated_is_told_on_start(
    broker: Broker, stream: str, empty_database: str, rwriter_engines: TestDbEngines
) -> None:
    from tests.support.fixtures import unpooled

    with pytest.raises(SchemaOutdated):
        await consume(broker.url, unpooled(empty_database, "asyncpg"), asyncio.Event(), stream=stream)


def test_the_options_are_named_once_and_checked() -> None:
    assert set(ConsumeOptions.__annotations__) == set(Options.__struct_fields__)
    documented = inspect.getdoc(StreamConsumer) or ""
    assert [name for name in Options.__struct_fields__ if f"``{name}``" not in documented] == []
    page = (ROOT / "docs/how-to/stream.md").read_text().split("<!-- consume-options:start -->")[1].split("<!--")[0]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == ["stream", *Options.__struct_fields__]


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"ack_wait": 0}, {"max_retries": -1}, {"durable": "a b"}, {"return_delay": 0}]
)
def test_an_option_that_cannot_be_used_is_refused(wrong: dict[str, Any], rwriter_engines: TestDbEngines) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StreamConsumer("nats://localhost", rwriter_engines, stream="s", **wrong)

"""Messages of the stream: one a batch, each record once, whatever its size, and no key."""

from __future__ import annotations

import asyncio
import base64
import random
from pathlib import Path
from typing import Any

import pytest
from nats.js import api

from rwriter import (
    CompletedRequest,
    JetStreamStore,
    RequestsWriter,
    RwriterError,
    SinkMisconfigured,
    SinkUnavailable,
    Spool,
)
from rwriter.stream import _messages as messages
from rwriter.stream._subjects import Subjects
from rwriter.testing import TcpProxy
from rwriter.threaded import ThreadedWriter
from tests.stream.conftest import MAX_PAYLOAD
from tests.support.brokers import Broker, asked, broker_in, raw_messages, records_in
from tests.support.driving import eventually, settle_loop
from tests.support.fates import balanced, ids
from tests.support.records import record
from tests.support.sizes import MIB
from tests.support.zstd import zstd

HASTY: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}


def incompressible(size: int) -> str:
    """Return text of about ``size`` bytes that zstd makes hardly smaller."""
    return base64.b85encode(random.Random(size).randbytes(size * 4 // 5)).decode()  # noqa: S311


async def test_a_batch_is_one_message_and_arrives_as_it_was(store: JetStreamStore, broker: Broker, stream: str) -> None:
    records = [record(metadata={"turn": number}) for number in range(50)]
    async with RequestsWriter(store, linger=60, batch_size=50) as writer:
        for each in records:
            await writer.send(each)
        await writer.flush()
        assert writer.stats.persisted == 50
    assert len(await raw_messages(broker, stream)) == 1
    assert await records_in(broker, stream) == records


async def test_no_key_is_in_a_message(store: JetStreamStore, broker: Broker, stream: str) -> None:
    keys = ["sk-very-secret", "sha256:" + "0" * 32]
    await store.persist_completed([record(api_key=key) for key in keys])
    (message,) = await raw_messages(broker, stream)
    content = zstd.decompress(message.data)
    assert not [key for key in keys if key.encode() in content]
    # nor is a digest digested once more by whoever reads it
    assert [each.api_key for each in await records_in(broker, stream)] == [record(api_key=key).api_key for key in keys]


async def test_the_same_batch_again_is_in_the_stream_once(store: JetStreamStore, broker: Broker, stream: str) -> None:
    records = [record() for _ in range(10)]
    for _ in range(3):
        assert (await store.persist_completed(records)).written == ids(records)
    assert await records_in(broker, stream) == records


async def test_a_batch_over_the_servers_bound_is_split(store: JetStreamStore, broker: Broker, stream: str) -> None:
    records = [record(response_body=incompressible(20_000 + number)) for number in range(20)]
    await store.persist_completed(records)
    found = await raw_messages(broker, stream)
    assert len(found) > 1
    assert max(len(message.data) for message in found) <= MAX_PAYLOAD
    assert await records_in(broker, stream) == records


async def test_a_record_over_the_bound_goes_in_parts(store: JetStreamStore, broker: Broker, stream: str) -> None:
    large = record(response_body=incompressible(5 * MAX_PAYLOAD))
    for _ in range(2):
        await store.persist_completed([large])
    *parts, named = await raw_messages(broker, stream)
    assert len(parts) == int(named.headers[messages.PARTS]) > 1
    assert messages.unpack_records(b"".join(part.data for part in parts)) == [large]
    assert named.headers[messages.REQUEST_ID] == str(large.request_id)


async def test_the_streams_own_bound_counts_as_well(broker: Broker, stream: str) -> None:
    async with JetStreamStore(broker.url, stream=stream) as store:
        await store.create_stream(max_bytes=MIB)
        config = (await asked(broker, lambda jetstream: jetstream.stream_info(stream))).config
        await asked(broker, lambda jetstream: jetstream.update_stream(config, max_msg_size=4096))
        records = [record(response_body=incompressible(1000 + number)) for number in range(20)]
        await store.persist_completed(records)
    assert len(await raw_messages(broker, stream)) > 1
    assert await records_in(broker, stream) == records


async def test_a_full_stream_holds_the_writer_until_there_is_room(broker: Broker, stream: str) -> None:
    async with JetStreamStore(broker.url, stream=stream) as store:
        await store.create_stream(max_bytes=60_000)
        records = [record(response_body=incompressible(20_000 + number)) for number in range(6)]
        async with RequestsWriter(store, batch_size=1, flush_concurrency=1, **HASTY) as writer:
            for each in records:
                await writer.send(each)
            await eventually(lambda: writer.health.state == "holding")
            assert writer.health.error == "JetStream says: maximum bytes exceeded (code 10077)"
            before = await records_in(broker, stream)
            assert 0 < len(before) < 6
            await asked(broker, lambda jetstream: jetstream.purge_stream(stream))
            await eventually(lambda: writer.stats.persisted > len(before))
            await asked(broker, lambda jetstream: jetstream.purge_stream(stream))
            await eventually(lambda: writer.stats.persisted == 6)
        assert (writer.stats.dead, writer.stats.dropped) == (0, 0)


async def test_a_full_stream_fills_the_spool(broker: Broker, stream: str, tmp_path: Path) -> None:
    async with JetStreamStore(broker.url, stream=stream) as store:
        await store.create_stream(max_bytes=30_000)
        records = [record(response_body=incompressible(20_000 + number)) for number in range(3)]
        options = HASTY | {"max_retries": 0, "replay_interval": 0.01, "batch_size": 1}
        async with RequestsWriter(store, spool=Spool(tmp_path), **options) as writer:
            for each in records:
                await writer.send(each)
            await eventually(lambda: writer.stats.spooled >= 2)
            for replayed in (1, 2):
                await asked(broker, lambda jetstream: jetstream.purge_stream(stream))
                await eventually(lambda replayed=replayed: writer.stats.replayed >= replayed)  # type: ignore[misc]
        assert balanced(writer.stats)
        assert (writer.stats.dead, writer.stats.dropped) == (0, 0)


async def test_a_server_that_is_absent_on_start_is_an_outage(tmp_path: Path, stream: str) -> None:
    broker = Broker(tmp_path)
    try:
        async with JetStreamStore(broker.url, stream=stream) as store:
            async with RequestsWriter(store, **HASTY) as writer:
                await writer.send(record())
                assert writer.health.state == "holding"
                await asyncio.to_thread(broker.start)
                await store.create_stream(max_bytes=MIB)
                await eventually(lambda: writer.stats.persisted == 1)
        assert len(await records_in(broker, stream)) == 1
    finally:
        broker.kill()


async def test_a_server_that_is_absent_is_away_whatever_is_asked_of_it(tmp_path: Path, stream: str) -> None:
    async with JetStreamStore(Broker(tmp_path).url, stream=stream) as store:
        for ask in (
            store.persist_completed([record()]),
            store.bury(record(), sqlstate=None, error=""),
            store.finished_ids(()),
            store.check_schema(),
            store.identity(),
        ):
            with pytest.raises(SinkUnavailable, match="NATS is away, NoServersError"):
                await ask


async def test_a_lost_connection_fails_what_is_under_way_at_once(broker: Broker, stream: str) -> None:
    """Its own time-out is an hour."""
    async with TcpProxy("127.0.0.1", broker.port) as proxy:
        async with JetStreamStore(f"nats://127.0.0.1:{proxy.port}", stream=stream, timeout=3600) as store:
            await store.create_stream(max_bytes=MIB)
            proxy.stall()
            sending = asyncio.create_task(store.persist_completed([record()]))
            await settle_loop()
            assert not sending.done()
            proxy.cut()
            with pytest.raises(SinkUnavailable, match="ConnectionClosedError"):
                await asyncio.wait_for(sending, 60)
            proxy.heal()
            await store.persist_completed([record()])


async def test_a_stream_that_is_missing_is_told_on_start(broker: Broker, stream: str) -> None:
    async with JetStreamStore(broker.url, stream=stream) as store:
        with pytest.raises(SinkMisconfigured, match=rf"no stream {stream}: make it with JetStreamStore.create_stream"):
            async with RequestsWriter(store):
                pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"storage": api.StorageType.MEMORY}, "is in memory"),
        ({"discard": api.DiscardPolicy.OLD}, "set discard to new"),
        ({"retention": api.RetentionPolicy.INTEREST}, "retention to workqueue"),
        ({"retention": api.RetentionPolicy.LIMITS}, "retention to workqueue"),
        ({"max_age": 60.0}, "max_age"),
        ({"no_ack": True}, "no_ack"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject"),
        ({"subjects": ["S.records"]}, r"does not take S\.records\.part\.>"),
        ({"subjects": ["S.other", "S.*.part"]}, r"does not take S\.records: add"),
    ],
)
def test_a_stream_that_would_lose_records_is_refused(changes: dict[str, Any], words: str) -> None:
    fields: dict[str, Any] = {
        "subjects": ["S.records", "S.records.part.>"],
        "storage": api.StorageType.FILE,
        "discard": api.DiscardPolicy.NEW,
        "retention": api.RetentionPolicy.WORK_QUEUE,
    }
    subjects = Subjects("S", None)
    subjects.check(api.StreamConfig(**fields))
    with pytest.raises(SinkMisconfigured, match=words):
        subjects.check(api.StreamConfig(**(fields | changes)))


@pytest.mark.parametrize("taken", [["S.>"], [">"], ["*.records", "*.*.part.>"], ["S.*", "S.records.>"]])
def test_wildcards_cover_the_subjects(taken: list[str]) -> None:
    config = api.StreamConfig(
        subjects=taken,
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.NEW,
        retention=api.RetentionPolicy.WORK_QUEUE,
    )
    Subjects("S", None).check(config)


async def test_a_client_that_the_server_refuses_is_told_so(tmp_path: Path, stream: str) -> None:
    user = 'authorization {users: [{user: "writer", password: "right", permissions: {publish: ["_INBOX.>"]}}]}'
    with broker_in(tmp_path / "nats", user) as guarded:
        for credentials, words in (("writer:wrong", "Authorization"), ("writer:right", "permissions violation")):
            url = guarded.url.replace("//", f"//{credentials}@")
            async with JetStreamStore(url, stream=stream, timeout=1) as store:
                with pytest.raises(SinkMisconfigured, match=words) as refused:
                    async with RequestsWriter(store):
                        pass
                assert credentials.partition(":")[2] not in str(refused.value)


async def test_a_stream_has_a_name_that_a_spool_can_be_held_to(
    store: JetStreamStore, broker: Broker, stream: str, tmp_path: Path
) -> None:
    assert await store.identity() == f"jetstream//{stream}"
    async with RequestsWriter(store, spool=Spool(tmp_path)):
        pass
    async with JetStreamStore(broker.url, stream=f"{stream}-2") as other:
        await other.create_stream(max_bytes=MIB)
        with pytest.raises(RwriterError, match="spool"):
            async with RequestsWriter(other, spool=Spool(tmp_path)):
                pass


async def test_a_closed_store_takes_nothing_and_says_so(store: JetStreamStore) -> None:
    await store.aclose()
    await store.aclose()
    with pytest.raises(SinkUnavailable, match="was closed"):
        await store.persist_completed([record()])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("a.b", None), "stream"), (("", None), "stream"), (("s", "a.*"), "subject"), (("s", "a..b"), "subject")],
)
def test_a_name_that_cannot_be_used_is_refused(arguments: tuple[str, str | None], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        JetStreamStore("nats://localhost", stream=arguments[0], subject=arguments[1])


@pytest.mark.parametrize(
    "servers",
    ["", "nats://", "nats://secret:4222,", "postgresql://user:secret@host", "nats://user:secret@host:port", []],
)
def test_an_address_that_cannot_be_used_is_refused_and_not_quoted(servers: str | list[str]) -> None:
    with pytest.raises(ValueError, match="servers must be URLs") as refused:
        JetStreamStore(servers, stream="s")
    assert "secret" not in str(refused.value)


async def test_a_thread_of_its_own_publishes_as_well(broker: Broker, stream: str, store: JetStreamStore) -> None:
    del store  # which made the stream
    one = record()

    def service() -> None:
        with ThreadedWriter(lambda: JetStreamStore(broker.url, stream=stream)) as writer:
            writer.send(one, wait="committed")

    await asyncio.to_thread(service)
    assert await records_in(broker, stream) == [one]


def test_a_message_that_cannot_be_read_says_so_and_quotes_nothing() -> None:
    payload = messages.pack_records([record(response_body="a secret")])
    flipped = bytearray(payload)
    flipped[len(flipped) // 2] ^= 1
    for damaged in (b"", b"secret", payload[:-1], bytes(flipped), zstd.compress(b"\x91\xa6secret")):
        for read in (messages.unpack_records, messages.unpack_letter):
            with pytest.raises(messages.Unreadable) as refused:
                read(damaged)
            assert "secret" not in str(refused.value)


def test_a_refused_record_travels_with_its_reason() -> None:
    one: CompletedRequest = record()
    payload = messages.pack_letter(one, sqlstate="23514", error="no \ud800")
    found, letter = messages.unpack_letter(payload)
    assert (found, letter.sqlstate, letter.error) == (one, "23514", "no ?")

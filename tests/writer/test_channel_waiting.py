"""Waiting for a record's end, closing, and the end of the consumer: the buffer alone, no database."""

from __future__ import annotations

import asyncio

import pytest

from rwriter import WriterFailed
from rwriter.records import CompletedRequest
from rwriter.writer._account import Account
from rwriter.writer._channel import Channel
from tests.support.buffer import Clock, balanced, channel, send_to, store
from tests.support.driving import CancelAt, settle_loop
from tests.support.records import record


async def test_linger_waits_for_a_full_batch() -> None:
    made = channel()
    made.send_nowait(record())
    taking = asyncio.create_task(made.take(2, 1_000_000, 60.0))
    await settle_loop()
    assert not taking.done()
    made.send_nowait(record())
    assert len(await taking) == 2


async def test_linger_ends_when_the_oldest_record_has_waited_long_enough() -> None:
    clock = Clock()
    made = channel(clock=clock)
    made.send_nowait(record())
    clock.now += 60.0
    assert len(await made.take(2, 1_000_000, 60.0)) == 1


async def test_a_lingering_take_ends_by_its_own_timer() -> None:
    made = Channel(Account(), capacity=10, max_bytes=1_000_000)
    made.open()
    made.send_nowait(record())
    async with asyncio.timeout(10):
        assert len(await made.take(2, 1_000_000, 0.01)) == 1


@pytest.mark.parametrize("hurry", ["flush", "close", "committed"])
async def test_flush_close_and_who_waits_for_a_record_cut_the_linger_short(hurry: str) -> None:
    made = channel()
    entry = made.send_nowait(record())
    taking = asyncio.create_task(made.take(2, 1_000_000, 60.0))
    await settle_loop()
    flushing: asyncio.Task[None] | None = None
    if hurry == "flush":
        flushing = asyncio.create_task(made.drained())
    elif hurry == "committed":
        flushing = asyncio.create_task(made.wait_settled(entry))
    else:
        made.close()
    entries = await taking
    assert len(entries) == 1
    store(made, entries)
    if flushing is not None:
        await flushing


async def test_it_lingers_again_once_who_waited_has_gone() -> None:
    made = channel()
    waiting = asyncio.create_task(made.wait_settled(made.send_nowait(record())))
    await settle_loop()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not await made.wait_ready(2, 1_000_000, 60.0, within=0.0)


class CountingClock(Clock):
    """Counts how often the time is asked for: once for a record, and by each taker that looks if it waits on."""

    asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return super().__call__()


async def test_a_record_that_does_not_fill_the_batch_wakes_nobody() -> None:
    clock = CountingClock()
    made = channel(clock=clock)
    made.send_nowait(record())
    takers = [asyncio.create_task(made.take(5, 1_000_000, 60.0)) for _ in range(2)]
    await settle_loop()
    before = clock.asked
    for _ in range(3):
        made.send_nowait(record())
        await settle_loop()
    assert clock.asked == before + 3
    made.send_nowait(record())
    await settle_loop()
    assert [taker.done() for taker in takers] == [True, False]
    made.close()
    assert await takers[1] == []


async def test_a_lingering_take_that_is_cancelled_leaves_the_batch_to_another() -> None:
    clock = Clock()
    made = channel(clock=clock)
    made.send_nowait(record())
    lingering = asyncio.create_task(made.take(2, 1_000_000, 60.0))
    await settle_loop()
    other = asyncio.create_task(made.take(2, 1_000_000, 60.0))
    await settle_loop()
    clock.now += 60.0
    lingering.cancel()
    assert len(await other) == 1


async def test_waiting_for_a_batch_ends_with_it_or_in_time() -> None:
    made = Channel(Account(), capacity=10, max_bytes=1_000_000)
    made.open()
    assert not await made.wait_ready(1, 1_000_000, within=0.001)
    waiting = asyncio.create_task(made.wait_ready(1, 1_000_000, within=60.0))
    await settle_loop()
    made.send_nowait(record())
    assert await waiting
    assert made.queued == 1


async def test_linger_does_not_wait_for_records_that_wait_for_room() -> None:
    made = channel(capacity=1)
    made.send_nowait(record())
    taking = asyncio.create_task(made.take(2, 1_000_000, 60.0))
    await settle_loop()
    sending = asyncio.create_task(send_to(made, record()))
    entries = await taking
    store(made, entries)
    await sending


async def test_a_dead_consumer_is_heard_by_every_waiter() -> None:
    made = channel(capacity=1)
    entry = made.send_nowait(record())
    committed = asyncio.create_task(made.wait_settled(entry))
    sending = asyncio.create_task(send_to(made, record()))
    flushing = asyncio.create_task(made.drained())
    await settle_loop()
    failure = WriterFailed("dead")
    failure.__cause__ = cause = RuntimeError("why")
    made.fail(failure)
    for waiter in (committed, sending, flushing):
        with pytest.raises(WriterFailed) as caught:
            await waiter
        assert caught.value.__cause__ is cause
    with pytest.raises(WriterFailed):
        made.send_nowait(record())
    with pytest.raises(WriterFailed):
        await made.drained()
    made.close()
    with pytest.raises(WriterFailed):
        made.send_nowait(record())
    assert made.pending == 1


@pytest.mark.parametrize("late", [False, True])
async def test_waiting_for_a_commit_can_be_cancelled_and_the_record_stays(late: bool) -> None:
    made = channel()
    entry = made.send_nowait(record())
    waiting = asyncio.create_task(CancelAt(0, late=late).run(made.wait_settled(entry)))
    await settle_loop()
    if late:
        made.settle([entry], "dropped", RuntimeError("dropped"))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not late:
        assert made.pending == 1
        store(made, [entry])
    assert made.pending == 0
    assert balanced(made)


async def test_the_first_of_two_records_with_one_id_is_the_one_found() -> None:
    made = channel()
    first = record()
    second = record(request_id=first.request_id, status_code=500)
    made.send_nowait(first)
    made.send_nowait(second)
    assert made.get(first.request_id) is first
    assert made.get(record().request_id) is None
    store(made, await made.take(1, 1_000_000))
    assert made.get(first.request_id) is second


async def test_records_of_one_id_are_lent_one_after_the_other_in_the_order_they_came() -> None:
    made = channel()
    first = record()
    twins = [first, *(record(request_id=first.request_id, status_code=500 + number) for number in range(3))]
    for item in (*twins, record()):
        made.send_nowait(item)
    for twin in twins:
        entries = await made.take(10, 1_000_000)
        assert [entry.record for entry in entries if entry.record.request_id == first.request_id] == [twin]
        assert made.get(first.request_id) is twin
        store(made, entries)
    assert made.get(first.request_id) is None
    assert made.pending == made.pending_bytes == 0


async def test_settling_twice_counts_once() -> None:
    made = channel()
    made.send_nowait(record())
    entries = await made.take(1, 1_000_000)
    made.settle(entries, "dropped")
    store(made, entries)
    assert dict(made.account.fates) == {"persisted": 0, "skipped": 0, "dead": 0, "spooled": 0, "dropped": 1}
    assert balanced(made)


async def test_leftovers_are_all_that_has_no_fate_queued_or_lent() -> None:
    made = channel()
    sent: list[CompletedRequest] = [record() for _ in range(4)]
    for item in sent:
        made.send_nowait(item)
    lent = await made.take(2, 1_000_000)
    store(made, lent[:1])
    assert [entry.record for entry in made.drain_all()] == sent[1:]


async def test_the_age_is_that_of_the_oldest_pending_record() -> None:
    clock = Clock()
    made = channel(clock=clock)
    assert made.oldest_age == 0.0
    made.send_nowait(record())
    clock.now += 5
    made.send_nowait(record())
    clock.now += 2
    assert made.oldest_age == 7.0
    store(made, await made.take(1, 1_000_000))
    assert made.oldest_age == 2.0


async def test_a_record_is_found_under_its_clients_id_until_it_is_settled() -> None:
    made = channel()
    sent = [record(custom_id="a"), record(custom_id="a", created_by="other"), record()]
    for item in sent:
        made.send_nowait(item)
    assert made.find("a", "tenant-a") is sent[0]
    assert made.find("a", "other") is sent[1]
    assert made.find("a", "nobody") is None
    store(made, (await made.take(10, 1_000_000))[:1])
    assert made.find("a", "tenant-a") is None
    assert made.find("a", "other") is sent[1]


async def test_of_two_records_with_one_clients_id_the_latest_is_found() -> None:
    made = channel()
    first, second = record(custom_id="a"), record(custom_id="a")
    made.send_nowait(first)
    made.send_nowait(second)
    store(made, await made.take(1, 1_000_000))
    assert made.find("a", "tenant-a") is second
    store(made, await made.take(1, 1_000_000))
    assert made.find("a", "tenant-a") is None

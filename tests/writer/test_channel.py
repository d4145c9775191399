"""The buffer alone: no database, a clock turned by hand."""

from __future__ import annotations

import asyncio

import pytest

from rwriter import ChannelFull, WriterClosed, WriterNotOpen
from rwriter.writer._account import Account
from rwriter.writer._channel import Channel
from tests.support.buffer import channel, send_to, store
from tests.support.driving import CancelAt, settle_loop
from tests.support.records import record


async def test_a_batch_is_what_is_queued_up_to_its_bounds() -> None:
    made = channel()
    for _ in range(5):
        made.send_nowait(record())
    assert [entry.seq for entry in await made.take(3, 1_000_000)] == [0, 1, 2]
    assert [entry.seq for entry in await made.take(3, 1_000_000)] == [3, 4]


async def test_a_batch_ends_before_its_bytes_run_over_but_is_never_empty() -> None:
    made = channel()
    size = record().text_bytes
    for _ in range(3):
        made.send_nowait(record())
    assert len(await made.take(10, 2 * size)) == 2
    assert len(await made.take(10, 1)) == 1


async def test_taking_waits_for_a_record() -> None:
    made = channel()
    taking = asyncio.create_task(made.take(10, 1_000))
    await settle_loop()
    assert not taking.done()
    made.send_nowait(record())
    assert len(await taking) == 1


async def test_room_is_freed_by_settling_not_by_taking() -> None:
    made = channel(capacity=2)
    made.send_nowait(record())
    made.send_nowait(record())
    entries = await made.take(10, 1_000_000)
    with pytest.raises(ChannelFull, match="2 of 2 records"):
        made.send_nowait(record())
    store(made, entries)
    made.send_nowait(record())
    assert made.pending == 1


async def test_a_sender_waits_for_room_by_count() -> None:
    made = channel(capacity=1)
    made.send_nowait(record())
    sending = asyncio.create_task(send_to(made, record()))
    await settle_loop()
    assert not sending.done()
    assert made.account.accepted == 1
    store(made, await made.take(1, 1_000_000))
    assert (await sending).seq == 1


async def test_a_sender_waits_for_room_by_bytes() -> None:
    big = record(response_body="x" * 1_000)
    made = channel(max_bytes=int(big.text_bytes * 1.5))
    made.send_nowait(big)
    sending = asyncio.create_task(send_to(made, record(response_body="x" * 1_000)))
    await settle_loop()
    assert not sending.done()
    store(made, await made.take(1, 1_000_000))
    await sending
    assert made.pending_bytes == big.text_bytes


async def test_a_record_over_the_byte_budget_passes_alone() -> None:
    made = channel(max_bytes=10_000)
    made.send_nowait(record())
    giant = record(response_body="x" * 50_000)
    with pytest.raises(ChannelFull):
        made.send_nowait(giant)
    sending = asyncio.create_task(send_to(made, giant))
    await settle_loop()
    assert not sending.done()
    store(made, await made.take(1, 1))
    assert (await sending).record is giant
    with pytest.raises(ChannelFull):
        made.send_nowait(record())


async def test_senders_are_served_in_order_and_nobody_jumps_the_queue() -> None:
    made = channel(capacity=1)
    made.send_nowait(record())
    order: list[int] = []

    async def send(number: int) -> None:
        await send_to(made, record())
        order.append(number)

    sending = [asyncio.create_task(send(number)) for number in range(3)]
    await settle_loop()
    entries = await made.take(1, 1_000_000)
    store(made, entries)
    # the room is granted to the first waiter, though it has not run yet
    with pytest.raises(ChannelFull):
        made.send_nowait(record())
    for _ in range(3):
        await settle_loop()
        store(made, await made.take(1, 1_000_000))
    await asyncio.gather(*sending)
    assert order == [0, 1, 2]


async def test_a_small_record_behind_a_cancelled_large_one_is_let_in() -> None:
    small, large = record(response_body=""), record(response_body="x" * 900)
    made = channel(max_bytes=small.text_bytes * 2 + 100)
    made.send_nowait(small)
    blocked = asyncio.create_task(send_to(made, large))
    await settle_loop()
    behind = asyncio.create_task(send_to(made, record(response_body="")))
    await settle_loop()
    assert not behind.done()
    blocked.cancel()
    await settle_loop()
    assert behind.done()
    assert made.account.accepted == 2


@pytest.mark.parametrize("late", [False, True])
async def test_a_cancelled_send_was_not_accepted_and_holds_no_room(late: bool) -> None:
    made = channel(capacity=1)
    made.send_nowait(record())
    sending = asyncio.create_task(CancelAt(0, late=late).run(send_to(made, record())))
    await settle_loop()
    store(made, await made.take(1, 1_000_000))
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert made.account.accepted == 1
    assert made.pending == made.pending_bytes == made.waiting_senders == 0
    made.send_nowait(record())


async def test_room_granted_to_a_cancelled_sender_goes_to_the_next() -> None:
    made = channel(capacity=1)
    made.send_nowait(record())
    first = asyncio.create_task(CancelAt(0, late=True).run(send_to(made, record())))
    await settle_loop()
    second = asyncio.create_task(send_to(made, record()))
    await settle_loop()
    store(made, await made.take(1, 1_000_000))
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).seq == 1


@pytest.mark.parametrize("late", [False, True])
async def test_a_wake_up_for_a_cancelled_taker_reaches_another(late: bool) -> None:
    made = channel()
    first = asyncio.create_task(CancelAt(0, late=late).run(made.take(1, 1_000)))
    await settle_loop()
    second = asyncio.create_task(made.take(1, 1_000))
    await settle_loop()
    made.send_nowait(record())
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(await second) == 1


async def test_closing_refuses_new_records_and_waiting_senders_but_not_takers() -> None:
    made = channel(capacity=1)
    made.send_nowait(record())
    sending = asyncio.create_task(send_to(made, record()))
    await settle_loop()
    made.close()
    with pytest.raises(WriterClosed):
        await sending
    with pytest.raises(WriterClosed):
        made.send_nowait(record())
    assert len(await made.take(1, 1_000)) == 1
    assert await made.take(1, 1_000) == []
    assert made.account.accepted == made.pending == 1


async def test_a_sender_granted_room_in_the_moment_of_closing_is_refused() -> None:
    made = channel(capacity=1)
    made.send_nowait(record())
    sending = asyncio.create_task(send_to(made, record()))
    await settle_loop()
    store(made, await made.take(1, 1_000_000))
    made.close()
    with pytest.raises(WriterClosed):
        await sending
    assert made.pending == made.pending_bytes == 0


async def test_records_are_refused_before_opening() -> None:
    made = Channel(Account(), capacity=1, max_bytes=1_000)
    with pytest.raises(WriterNotOpen, match="async with"):
        made.send_nowait(record())
    with pytest.raises(WriterNotOpen):
        await send_to(made, record())


async def test_what_is_given_back_is_taken_first_and_in_order() -> None:
    made = channel()
    for _ in range(6):
        made.send_nowait(record())
    first, second = await made.take(2, 1_000_000), await made.take(2, 1_000_000)
    store(made, first[:1])
    made.give_back(second)
    made.give_back(first)
    assert [entry.seq for entry in await made.take(10, 1_000_000)] == [1, 2, 3, 4, 5]
    assert made.pending == 5


async def test_flush_waits_for_what_was_accepted_before_it_and_for_nothing_later() -> None:
    made = channel()
    for _ in range(3):
        made.send_nowait(record())
    flushing = asyncio.create_task(made.drained())
    await settle_loop()
    made.send_nowait(record())
    one, two, three, four = await made.take(10, 1_000_000)
    store(made, [two, three])
    await settle_loop()
    assert not flushing.done()
    store(made, [one])
    await flushing
    store(made, [four])
    await made.drained()

"""A flush that outlives the drain: what it says of records that have a fate already counts for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from rwriter import CompletedRequest, PersistResult, RequestStore
from rwriter.writer import RequestsWriter
from rwriter.writer._account import Account
from rwriter.writer._channel import Channel
from rwriter.writer._delivery import Delivery
from rwriter.writer._options import MIB
from rwriter.writer._outage import Outage
from tests.support.records import record


class HeldStore(RequestStore):
    """A database that answers when told to."""

    def __init__(self, already_there: int = 0) -> None:
        self.already_there = already_there
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        self.asked.set()
        await self.answer.wait()
        ids = [record.request_id for record in records]
        there, fresh = ids[: self.already_there], frozenset(ids[self.already_there :])
        return PersistResult(len(fresh), 0, len(there), fresh)


async def test_each_record_has_one_fate_though_half_of_a_batch_was_given_up_meanwhile() -> None:
    store: Any = HeldStore()
    channel = Channel(Account(), capacity=10, max_bytes=MIB)
    channel.open()
    options = RequestsWriter(store, check_schema=False)._options
    delivery = Delivery(store, channel, options, outage=Outage("rwriter"))
    for _ in range(4):
        await channel.send(record())
    entries = await channel.take(10, MIB)
    flush = asyncio.create_task(delivery.deliver(entries))
    await store.asked.wait()
    await delivery.spool_or_drop(entries[:2], "the drain deadline passed")
    store.answer.set()
    await flush
    assert (channel.account.fates["dropped"], channel.account.fates["persisted"], channel.pending) == (2, 2, 0)


async def test_a_skipped_record_of_a_batch_that_was_partly_given_up_is_booked_as_skipped() -> None:
    store: Any = HeldStore(already_there=2)
    channel = Channel(Account(), capacity=10, max_bytes=MIB)
    channel.open()
    options = RequestsWriter(store, check_schema=False)._options
    delivery = Delivery(store, channel, options, outage=Outage("rwriter"))
    for _ in range(4):
        await channel.send(record())
    entries = await channel.take(10, MIB)
    flush = asyncio.create_task(delivery.deliver(entries))
    await store.asked.wait()
    # the first of the two that are skipped, and the first of the two that are written
    await delivery.spool_or_drop([entries[0], entries[2]], "the drain deadline passed")
    store.answer.set()
    await flush
    assert [entry.fate for entry in entries] == ["dropped", "skipped", "dropped", "persisted"]
    assert dict(channel.account.fates) == {"persisted": 1, "skipped": 1, "dead": 0, "spooled": 0, "dropped": 2}

"""A flush that outlives the drain: what it says of records that have a fate already counts for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from rwriter import CompletedRequest, PersistResult, RequestStore
from rwriter.writer import RequestsWriter
from rwriter.writer._channel import Channel
from rwriter.writer._delivery import Delivery
from rwriter.writer._options import MIB
from rwriter.writer._outage import Outage
from tests.support.records import record


class HeldStore(RequestStore):
    """A database that answers when told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        self.asked.set()
        await self.answer.wait()
        ids = frozenset(record.request_id for record in records)
        return PersistResult(len(ids), 0, 0, ids)


async def test_each_record_has_one_fate_though_half_of_a_batch_was_given_up_meanwhile() -> None:
    store: Any = HeldStore()
    channel = Channel(capacity=10, max_bytes=MIB)
    channel.open()
    options = RequestsWriter(store, check_schema=False)._options
    delivery = Delivery(store, channel, options, outage=Outage("rwriter"))
    for _ in range(4):
        await channel.send(record())
    entries = await channel.take(10, MIB)
    flush = asyncio.create_task(delivery.deliver(entries))
    await store.asked.wait()
    await delivery.give_up(entries[:2], "the drain deadline passed")
    store.answer.set()
    await flush
    assert (channel.fates["dropped"], channel.fates["persisted"], channel.pending) == (2, 2, 0)

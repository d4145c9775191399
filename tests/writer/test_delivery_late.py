"""A flush that outlives the drain: what it says of records that have a fate already counts for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from rwriter import CompletedRequest, PersistResult, RequestStore
from rwriter.testing import TestDbEngines
from rwriter.writer import RequestsWriter
from rwriter.writer._account import Account
from rwriter.writer._channel import Channel
from rwriter.writer._delivery import Delivery
from rwriter.writer._options import MIB
from rwriter.writer._outage import Outage
from rwriter.writer._pending import PendingRecord
from rwriter.writer._replay import _ReplayCounter
from tests.support.buffer import send_to
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


async def delivery_to(store: Any) -> tuple[Delivery, Channel, list[PendingRecord]]:
    """A delivery of four records that were taken out of a channel."""
    channel = Channel(Account(), capacity=10, max_bytes=MIB)
    channel.open()
    options = RequestsWriter(store, check_schema=False)._options
    for _ in range(4):
        await send_to(channel, record())
    return Delivery(store, channel, options, outage=Outage(options)), channel, await channel.take(10, MIB)


async def test_each_record_has_one_fate_though_half_of_a_batch_was_given_up_meanwhile() -> None:
    store: Any = HeldStore()
    delivery, channel, entries = await delivery_to(store)
    flush = asyncio.create_task(delivery.deliver(entries))
    await store.asked.wait()
    await delivery.spool_or_drop(entries[:2], "the drain deadline passed")
    store.answer.set()
    await flush
    assert (channel.account.fates["dropped"], channel.account.fates["persisted"], channel.pending) == (2, 2, 0)


async def test_a_skipped_record_of_a_batch_that_was_partly_given_up_is_booked_as_skipped() -> None:
    store: Any = HeldStore(already_there=2)
    delivery, channel, entries = await delivery_to(store)
    flush = asyncio.create_task(delivery.deliver(entries))
    await store.asked.wait()
    # the first of the two that are skipped, and the first of the two that are written
    await delivery.spool_or_drop([entries[0], entries[2]], "the drain deadline passed")
    store.answer.set()
    await flush
    assert [entry.fate for entry in entries] == ["dropped", "skipped", "dropped", "persisted"]
    assert dict(channel.account.fates) == {"persisted": 1, "skipped": 1, "dead": 0, "spooled": 0, "dropped": 2}


async def test_of_two_records_with_one_id_in_a_batch_of_the_replay_the_first_has_the_row(
    rwriter_engines: TestDbEngines,
) -> None:
    store = RequestStore(rwriter_engines)
    first, another = record(response_body="first"), record()
    again = record(request_id=first.request_id, response_body="again")
    entries = [PendingRecord(each, each.text_bytes, seq, 0.0) for seq, each in enumerate([another, first, again])]
    options = RequestsWriter(store)._options
    await Delivery(store, _ReplayCounter(), options, outage=Outage(options)).deliver(entries)
    assert [entry.fate for entry in entries] == ["persisted", "persisted", "skipped"]
    stored = await store.get_request(first.request_id)
    assert stored is not None
    assert stored.response_body == "first"

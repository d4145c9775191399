"""Random interleavings of sending, flushing, faults and closing, against a model of the account."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import ChannelFull, CompletedRequest, RecordDropped, RecordRejected, RequestsWriter
from rwriter.testing import TcpProxy
from rwriter.writer._account import FATES, Fate
from rwriter.writer._channel import Channel
from rwriter.writer._pending import PendingRecord
from tests.support.driving import settle_loop
from tests.support.fates import balanced
from tests.support.records import record

CAPACITY = 6

HOLDING = 60.0
"""A ``give_up_after`` that no script outlasts."""

Kind = Literal["good", "bad", "unsure", "again"]
# a CHECK refuses the bad ones, a trigger with a code of its own the unsure ones
kinds = st.sampled_from(["good", "good", "good", "bad", "unsure", "again"])
steps = st.one_of(
    st.tuples(st.just("send"), kinds),
    st.tuples(st.just("send_nowait"), kinds),
    st.tuples(st.just("send_committed"), kinds),
    st.tuples(st.just("cancelled_send"), kinds),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("cut"), st.none()),
    st.tuples(st.just("heal"), st.none()),
    st.tuples(st.just("turn"), st.integers(1, 60)),
)


@dataclass
class Model:
    """Properties of the account, kept by other means than the writer's."""

    accepted: list[CompletedRequest] = field(default_factory=list)
    promised: set[UUID] = field(default_factory=set)
    rejected: set[UUID] = field(default_factory=set)
    told_dropped: int = 0
    faults: bool = False
    settled: list[tuple[int, UUID, Fate]] = field(default_factory=list)
    """Number, id and fate of each record, in the order of settling."""

    def record(self, kind: Kind) -> CompletedRequest:
        if kind in {"bad", "unsure"}:
            return record(response_body=kind)
        if kind == "again" and self.accepted:
            return record(request_id=self.accepted[0].request_id)
        return record()

    @property
    def bad(self) -> int:
        return sum(item.response_body in {"bad", "unsure"} for item in self.accepted)

    @property
    def unsure(self) -> set[UUID]:
        return {item.request_id for item in self.accepted if item.response_body == "unsure"}

    @property
    def distinct_good(self) -> set[UUID]:
        return {item.request_id for item in self.accepted if item.response_body not in {"bad", "unsure"}}


def watch_fates(model: Model, channel: Channel) -> None:
    settle = channel.settle

    def watched(entries: Iterable[PendingRecord], fate: Fate, error: Exception | None = None) -> int:
        given = list(entries)
        unsettled = [entry for entry in given if entry.fate is None]
        number = settle(given, fate, error)
        assert number == len(unsettled)
        model.settled += [(entry.seq, entry.record.request_id, fate) for entry in unsettled]
        return number

    channel.settle = watched  # type: ignore[method-assign]


async def offer(model: Model, writer: RequestsWriter, how: str, kind: Kind) -> None:
    item = model.record(kind)
    if how == "send_nowait":
        try:
            writer.send_nowait(item)
        except ChannelFull:
            assert writer.stats.pending >= CAPACITY or writer.stats.waiting_senders
            return
        model.accepted.append(item)
        return
    if how == "send":
        await writer.send(item)
        model.accepted.append(item)
        return
    before = writer.stats.accepted
    sending = asyncio.create_task(writer.send(item, wait="committed"))
    if how == "cancelled_send":
        await settle_loop(3)
        sending.cancel()
    (answer,) = await asyncio.gather(sending, return_exceptions=True)
    if writer.stats.accepted > before:
        model.accepted.append(item)
    match answer:
        case None:
            model.promised.add(item.request_id)
        case RecordRejected():
            model.rejected.add(item.request_id)
        case RecordDropped():
            model.told_dropped += 1
        case _:
            assert isinstance(answer, asyncio.CancelledError), answer


async def play(url: str, script: list[tuple[str, object]], give_up_after: float) -> None:
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    direct = create_async_engine(parsed, poolclass=NullPool)
    async with TcpProxy(parsed.host or "", parsed.port or 5432) as proxy:
        engine = create_async_engine(parsed.set(host="127.0.0.1", port=proxy.port), poolclass=NullPool)
        model = Model()
        async with RequestsWriter(
            engine,
            channel_capacity=CAPACITY,
            batch_size=3,
            max_retries=1,
            retry_base_delay=0.001,
            retry_max_delay=0.005,
            give_up_after=give_up_after,
            check_schema=False,
        ) as writer:
            watch_fates(model, writer._channel)
            for what, argument in script:
                if give_up_after == HOLDING and may_wait(what, writer):
                    # it would wait as long as the line is cut
                    proxy.heal()
                if what == "flush":
                    await writer.flush(timeout=30)
                    assert writer.stats.pending == 0
                elif what == "cut":
                    proxy.cut()
                    model.faults = True
                elif what == "heal":
                    proxy.heal()
                elif what == "turn":
                    await settle_loop(int(str(argument)))
                else:
                    # nobody could tell an unsure record alone from an outage, which is held
                    kind = "good" if give_up_after == HOLDING and argument == "unsure" else argument
                    await offer(model, writer, what, kind)  # type: ignore[arg-type]
                assert balanced(writer.stats)
                assert writer.stats.pending <= CAPACITY
            proxy.heal()
        await verify(direct, model, writer)
        if give_up_after == HOLDING:
            assert writer.stats.dropped == 0


def may_wait(what: str, writer: RequestsWriter) -> bool:
    return what in {"flush", "send_committed", "cancelled_send"} or writer.stats.pending >= CAPACITY


async def verify(engine: AsyncEngine, model: Model, writer: RequestsWriter) -> None:
    stats = writer.stats
    assert stats.accepted == len(model.accepted)
    assert stats.pending == stats.pending_bytes == 0
    offered = [item.request_id for item in model.accepted]
    # each accepted record has one fate, and the account counts just these
    assert sorted(number for number, _, _ in model.settled) == list(range(stats.accepted))
    counted = Counter(fate for _, _, fate in model.settled)
    assert {fate: counted[fate] for fate in FATES} == {fate: getattr(stats, fate) for fate in FATES}
    with_fate = {fate: {item for _, item, each in model.settled if each == fate} for fate in FATES}
    async with engine.connect() as connection:
        rows = (
            (await connection.execute(text("SELECT id FROM requests WHERE id = ANY(:ids)"), {"ids": offered}))
            .scalars()
            .all()
        )
        letters = Counter(
            (
                await connection.execute(
                    text("SELECT request_id FROM dead_letters WHERE request_id = ANY(:ids)"), {"ids": offered}
                )
            ).scalars()
        )
        templates = (
            await connection.execute(
                text(
                    "SELECT count(*) FROM request_templates t "
                    "LEFT JOIN requests r ON r.template_id = t.id WHERE r.id IS NULL"
                )
            )
        ).scalar_one()
    assert templates == 0
    assert with_fate["persisted"] | with_fate["skipped"] <= set(rows)
    assert with_fate["dead"] <= set(letters)
    assert model.promised <= with_fate["persisted"] | with_fate["skipped"]
    assert model.rejected <= with_fate["dead"]
    assert model.promised <= set(rows)
    assert model.rejected <= set(letters)
    assert set(rows) <= model.distinct_good
    assert stats.dropped >= model.told_dropped
    # a record counted as dropped may have its row all the same: the commit's acknowledgement was lost, and then more
    lost = len(model.distinct_good - set(rows)) + (model.bad - letters.total())
    assert lost <= stats.dropped
    assert stats.persisted <= len(rows)
    assert not (model.unsure - model.distinct_good) & (with_fate["persisted"] | with_fate["skipped"])
    if not model.faults and not model.unsure:
        assert stats.dropped == 0
        assert stats.dead == model.bad == letters.total()
        assert stats.persisted == len(rows) == len(model.distinct_good)


UNSURE = """
CREATE OR REPLACE FUNCTION unsure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.response_body = 'unsure' THEN RAISE EXCEPTION 'no' USING ERRCODE = '45000'; END IF;
    RETURN NEW;
END $$
"""


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(steps, min_size=3, max_size=25), give_up_after=st.sampled_from([0.0, 0.02, HOLDING]))
def test_the_account_closes_whatever_happens_in_whatever_order(
    rwriter_database: str, script: list[tuple[str, object]], give_up_after: float
) -> None:
    async def main() -> None:
        engine = create_async_engine(rwriter_database.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE requests DROP CONSTRAINT IF EXISTS no_bad"))
            await connection.execute(text("ALTER TABLE requests ADD CONSTRAINT no_bad CHECK (response_body <> 'bad')"))
            await connection.execute(text(UNSURE))
            await connection.execute(text("DROP TRIGGER IF EXISTS unsure ON requests"))
            await connection.execute(
                text("CREATE TRIGGER unsure BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION unsure()")
            )
        async with asyncio.timeout(60):
            await play(rwriter_database, script, give_up_after)

    asyncio.run(main())

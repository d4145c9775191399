"""One attempt at a time tries to reach a database that is away, the replay's or a live batch's."""

from __future__ import annotations

import asyncio

from rwriter.writer._options import Options
from rwriter.writer._outage import Database, Outage


def away() -> Outage:
    outage = Outage(Options())
    outage.retries_spent(ConnectionRefusedError())
    return outage


def test_everybody_may_try_a_database_that_is_up() -> None:
    outage = Outage(Options())
    with outage.attempt() as live, outage.attempt(replaying=True) as replay, outage.attempt() as another:
        assert live
        assert replay
        assert another
    assert outage.state is Database.UP


def test_the_replay_alone_probes_while_it_has_something_to_probe_with() -> None:
    outage = away()
    with outage.attempt() as live:
        assert not live
    with outage.attempt(replaying=True) as replay:
        assert replay
        assert outage.is_probed
        with outage.attempt(replaying=True) as second, outage.attempt() as live:
            assert not second
            assert not live
    assert outage.state is Database.AWAY


def test_one_live_batch_probes_where_the_replay_has_nothing() -> None:
    outage = away()
    outage.nothing_to_replay()
    with outage.attempt() as first, outage.attempt() as second, outage.attempt(replaying=True) as replay:
        assert first
        assert not second
        assert not replay
        outage.retries_spent(ConnectionRefusedError())
    # until the replay says so again: the batch that failed went to the spool
    with outage.attempt() as live:
        assert not live


def test_a_replay_that_had_nothing_before_the_outage_gives_no_live_batch_leave_to_probe() -> None:
    outage = Outage(Options())
    outage.nothing_to_replay()
    outage.retries_spent(ConnectionRefusedError())
    with outage.attempt() as live:
        assert not live


def test_an_answer_ends_the_outage_for_everybody() -> None:
    outage = away()
    with outage.attempt(replaying=True) as replay:
        assert replay
        outage.database_answered()
    with outage.attempt() as live:
        assert live


async def test_a_probe_that_is_cancelled_leaves_the_next_one_to_another() -> None:
    outage = away()

    async def probe() -> None:
        with outage.attempt(replaying=True):
            await asyncio.Event().wait()

    probing = asyncio.create_task(probe())
    await asyncio.sleep(0)
    assert outage.is_probed
    probing.cancel()
    await asyncio.wait({probing})
    with outage.attempt(replaying=True) as replay:
        assert replay

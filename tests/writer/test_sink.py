"""A writer before a sink that is no database: the same account, retries, spool and search for the bad record."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rwriter import (
    JetStreamStore,
    RecordRejected,
    RecordSink,
    RequestStore,
    RequestsWriter,
    RwriterError,
    SinkMisconfigured,
    SinkRefusedRecord,
    SinkUnavailable,
    Spool,
    Upkeep,
)
from rwriter.asgi import CaptureMiddleware
from tests.support.driving import eventually
from tests.support.fates import balanced, ids
from tests.support.records import record
from tests.support.sinks import MemorySink


async def test_records_go_to_the_sink_and_are_accounted_for() -> None:
    sink = MemorySink()
    records = [record() for _ in range(25)]
    async with RequestsWriter(sink, batch_size=10) as writer:
        for each in records:
            await writer.send(each)
        await writer.flush()
    assert set(sink.stored) == ids(records)
    assert writer.stats.persisted == 25


async def test_a_sink_that_is_away_for_a_moment_is_given_the_same_records_again() -> None:
    sink = MemorySink(SinkUnavailable("full"), SinkUnavailable("full"))
    async with RequestsWriter(sink, retry_base_delay=0.001) as writer:
        await writer.send(record(), wait="committed")
    assert (writer.stats.persisted, writer.stats.retries, sink.calls) == (1, 2, 3)


async def test_no_record_is_ever_blamed_for_a_sink_that_is_away(tmp_path: Path) -> None:
    """Not even one that the sink calls itself away for, while it takes the others."""
    sink = MemorySink()
    sink.refusal = SinkUnavailable("no room for this one")
    good, bad = record(), record(response_body="bad")
    options = {"max_retries": 1, "retry_base_delay": 0.001, "retry_max_delay": 0.002, "replay_interval": 0.01}
    async with RequestsWriter(sink, spool=Spool(tmp_path), batch_size=1, **options) as writer:  # type: ignore[arg-type]
        await writer.send(bad)
        await eventually(lambda: writer.stats.spooled == 1)
        # each round of the replay asks the sink what it has, which it answers, and then for room
        await eventually(lambda: (writer.health.state, writer.health.error) == ("spooling", "no room for this one"))
        await writer.send(good)
        await eventually(lambda: writer.stats.pending == 0)
        assert bad.request_id not in sink.stored
        sink.refusal = None
        await eventually(lambda: set(sink.stored) == ids([good, bad]))
    assert not sink.buried
    assert balanced(writer.stats)


async def test_the_record_that_a_sink_refuses_is_found_and_buried_there() -> None:
    sink = MemorySink()
    sink.refusal = SinkRefusedRecord("a record is too large")
    good, bad = [record() for _ in range(20)], record(response_body="bad")
    async with RequestsWriter(sink, linger=60, batch_size=21) as writer:
        for each in good:
            await writer.send(each)
        with pytest.raises(RecordRejected, match="a record is too large"):
            await writer.send(bad, wait="committed")
    assert (set(sink.stored), set(sink.buried)) == (ids(good), {bad.request_id})
    assert sink.reasons[bad.request_id] == (None, "SinkRefusedRecord: a record is too large")
    assert (writer.stats.persisted, writer.stats.dead, writer.stats.retries) == (20, 1, 0)


async def test_a_sink_that_is_away_on_start_does_not_keep_the_service_from_starting() -> None:
    class Away(MemorySink):
        async def check_schema(self) -> None:
            raise SinkUnavailable("not yet")

    async with RequestsWriter(Away()) as writer:
        assert writer.health.state == "holding"
        await writer.send(record())
        await eventually(lambda: writer.stats.persisted == 1)


async def test_a_sink_that_is_set_up_wrongly_says_so_on_start() -> None:
    class Wrong(MemorySink):
        async def check_schema(self) -> None:
            raise SinkMisconfigured("make the stream first")

    with pytest.raises(SinkMisconfigured, match="make the stream first"):
        async with RequestsWriter(Wrong()):
            pass


async def test_what_needs_a_database_says_that_there_is_none() -> None:
    with pytest.raises(ValueError, match="fail_stale_after needs a RequestStore, and not a MemorySink"):
        RequestsWriter(MemorySink(), fail_stale_after=600)
    with pytest.raises(ValueError, match="upkeep needs a RequestStore, and not a MemorySink"):
        RequestsWriter(MemorySink(), upkeep=Upkeep(purge_after=timedelta(days=1)))
    with pytest.raises(RwriterError, match="go to a MemorySink"):
        _ = RequestsWriter(MemorySink()).store


@pytest.mark.parametrize("handed", [RequestStore, JetStreamStore, MemorySink, RecordSink])
def test_the_class_of_a_sink_is_no_sink(handed: Any) -> None:
    with pytest.raises(TypeError, match=f"the class {handed.__name__}"):
        RequestsWriter(handed)


async def test_a_spool_for_a_sink_refuses_a_sink_with_another_name(tmp_path: Path) -> None:
    class Other(MemorySink):
        async def identity(self) -> str:
            return "another"

    async with RequestsWriter(MemorySink(), spool=Spool(tmp_path)):
        pass
    with pytest.raises(RwriterError, match="another"):
        async with RequestsWriter(Other(), spool=Spool(tmp_path)):
            pass


async def test_behind_a_sink_without_rows_background_calls_are_left_to_the_upstream() -> None:
    async def app(*_: object) -> None:
        pass

    writer = RequestsWriter(MemorySink())
    middleware = CaptureMiddleware(app, writer, attribute=lambda *_: "tenant")
    assert middleware._background is None

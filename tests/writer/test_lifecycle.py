"""The corners of a writer's life: closed while it opens, and in a forked child."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rwriter import RequestStore, RequestsWriter, RwriterError, Spool, WriterClosed, WriterForked
from rwriter.testing import TestDbEngines
from rwriter.writer._lifecycle import State
from tests.support.records import record


class SlowStart(RequestStore):
    """A store whose start check goes on until it is told to end."""

    def __init__(self, engines: TestDbEngines) -> None:
        super().__init__(engines)
        self.checking = asyncio.Event()
        self.go_on = asyncio.Event()

    async def check_schema(self) -> None:
        self.checking.set()
        await self.go_on.wait()
        await super().check_schema()


async def test_a_writer_closed_while_it_opens_does_not_open_and_leaves_no_spool_open(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    store, spool = SlowStart(rwriter_engines), Spool(tmp_path)
    writer = RequestsWriter(store, spool=spool)
    opening = asyncio.create_task(writer.__aenter__())
    waiting = asyncio.create_task(writer.wait_open())
    await store.checking.wait()
    await writer.aclose()
    store.go_on.set()
    for task in (opening, waiting):
        with pytest.raises(WriterClosed):
            await task
    with pytest.raises(WriterClosed):
        await writer.send(record())
    assert writer._lifecycle.state is State.CLOSED
    with pytest.raises(RwriterError, match="not open"):
        await spool.count()


async def test_closing_in_a_forked_child_touches_nothing_of_the_parents(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines) as writer:
        # as os.register_at_fork has it called in the child
        writer._lifecycle.forked()
        await writer.aclose()
        assert writer._lifecycle.state is State.FORKED
        with pytest.raises(WriterForked):
            await writer.send(record())
        consumer = writer._lifecycle._task
        assert consumer is not None
        assert not consumer.done()
    consumer.cancel()
    await asyncio.wait({consumer})

"""The same writer for code without an event loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rwriter import (
    ChannelFull,
    DbEngines,
    RequestStore,
    RwriterError,
    SchemaOutdated,
    WriterClosed,
    WriterNotOpen,
)
from rwriter.testing import TestDbEngines
from rwriter.threaded import ThreadedWriter
from tests.support.fates import balanced, ids, stored
from tests.support.faults import table_locked
from tests.support.records import record


def test_many_threads_send_through_one_writer(rwriter_database: str, rwriter_engines: TestDbEngines) -> None:
    sent = [record() for _ in range(200)]
    with ThreadedWriter(rwriter_database) as writer:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(writer.send, sent[:150]))
            list(pool.map(writer.send_nowait, sent[150:]))
        writer.flush(timeout=30)
        assert asyncio.run(stored(rwriter_engines)) == ids(sent)
        assert writer.stats.persisted == 200
        assert writer.health.state == "ok"
    assert balanced(writer.stats)
    closed = writer.health
    assert closed.state == "failed"
    with pytest.raises(WriterClosed):
        writer.send(record())
    writer.close()


def test_committed_means_the_row_is_there_and_the_buffer_answers_until_then(
    rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    item = record()
    with ThreadedWriter(rwriter_database) as writer:
        writer.send(item, wait="committed", timeout=30)
        assert asyncio.run(stored(rwriter_engines)) == {item.request_id}
        assert writer.get(item.request_id) is None


def test_a_full_buffer_times_out_and_what_timed_out_was_not_accepted(
    rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    def fill(writer: ThreadedWriter) -> None:
        item = record()
        writer.send(item)
        assert writer.get(item.request_id) is item
        with pytest.raises(TimeoutError):
            writer.send(record(), timeout=0.01)
        with pytest.raises(ChannelFull):
            writer.send_nowait(record())
        with pytest.raises(TimeoutError):
            writer.flush(timeout=0.01)
        assert writer.stats.accepted == 1

    async def main(writer: ThreadedWriter) -> None:
        async with table_locked(rwriter_engines):
            await asyncio.to_thread(fill, writer)

    with ThreadedWriter(rwriter_database, channel_capacity=1, check_schema=False) as writer:
        asyncio.run(main(writer))
    assert writer.stats.persisted == 1


def test_engines_of_ones_own_are_made_and_closed_on_the_writers_thread(rwriter_database: str) -> None:
    made: list[DbEngines] = []

    def engines() -> DbEngines:
        asyncio.get_running_loop()
        made.append(DbEngines.from_url(rwriter_database))
        return made[0]

    with ThreadedWriter(engines) as writer:
        writer.send(record(), wait="committed")
        pool = made[0].write.pool
    assert made[0].write.pool is not pool


def test_what_keeps_it_from_opening_is_raised_and_it_is_used_once(empty_database: str) -> None:
    writer = ThreadedWriter(empty_database)
    with pytest.raises(WriterNotOpen):
        writer.send(record())
    with pytest.raises(SchemaOutdated):
        writer.open()
    with pytest.raises(WriterClosed):
        writer.open()
    with pytest.raises((ValueError, RwriterError)):
        ThreadedWriter("mysql://nope").open()


def test_calling_it_from_its_own_thread_is_refused_instead_of_waiting_for_itself(rwriter_database: str) -> None:
    with ThreadedWriter(rwriter_database) as writer:
        _, loop, _ = writer._opened()

        async def inside() -> None:
            writer.flush()

        with pytest.raises(RuntimeError, match="own thread"):
            asyncio.run_coroutine_threadsafe(inside(), loop).result(30)


# so that nothing is said of a missing one
PEPPERED = os.environ | {"RWRITER_KEY_PEPPER": "of the tests"}

SCRIPT = """
import sys
from rwriter.threaded import ThreadedWriter
from tests.support.records import record
writer = ThreadedWriter(sys.argv[1]).open()
for _ in range(500):
    writer.send(record())
"""


def test_a_script_that_simply_ends_has_its_records_stored(
    rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    # a host name, so that connecting needs a thread: the interpreter is on its way out by then
    url = rwriter_database.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, url], capture_output=True, text=True, timeout=60, check=False, env=PEPPERED
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(asyncio.run(stored(rwriter_engines))) == 500


FORKING = """
import asyncio, os, sys
from rwriter import DbEngines, RequestsWriter, WriterForked
from tests.support.records import record

async def child(url):
    async with DbEngines.from_url(url) as engines:
        async with RequestsWriter(engines) as writer:
            await writer.send(record(model="child"), wait="committed")

async def main():
    async with DbEngines.from_url(sys.argv[1]) as engines:
        async with RequestsWriter(engines) as writer:
            await writer.send(record(model="parent"), wait="committed")
            pid = os.fork()
            if pid == 0:
                try:
                    writer.send_nowait(record(model="lost"))
                except WriterForked as refusal:
                    assert "each worker" in str(refusal), refusal
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            # the parent's connections are as they were
            await writer.send(record(model="parent"), wait="committed")

asyncio.run(main())
pid = os.fork()
if pid == 0:
    asyncio.run(child(sys.argv[1]))
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""


def test_a_writer_opened_before_a_fork_refuses_in_the_child_and_one_opened_after_works(
    rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    command = [sys.executable, "-c", FORKING, rwriter_database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=PEPPERED)
    assert (done.returncode, done.stderr) == (0, "")

    async def models() -> list[str]:
        page = await RequestStore(rwriter_engines).list_requests()
        return sorted(item.model for item in page.data)

    assert asyncio.run(models()) == ["child", "parent", "parent"]


def test_a_threaded_writer_refuses_in_a_forked_child(rwriter_database: str) -> None:
    script = """
import os, sys
from rwriter import WriterForked
from rwriter.threaded import ThreadedWriter
from tests.support.records import record
with ThreadedWriter(sys.argv[1]) as writer:
    pid = os.fork()
    if pid == 0:
        try:
            writer.send(record())
        except WriterForked:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    writer.send(record(), wait="committed")
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, rwriter_database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=PEPPERED)
    assert (done.returncode, done.stderr) == (0, "")

"""Processes, lifespans and references that end: by a signal, by ``os._exit``, a second time, or without a word."""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from rwriter import CompletedRequest, DbEngines, RequestsWriter, Spool
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually
from tests.support.fates import ids, stored
from tests.support.faults import table_locked, through_a_proxy
from tests.support.records import record
from tests.support.redis_server import redis

ROOT = Path(__file__).parents[2]

# -- signals

SCRIPT = """
import signal, sys, time
from rwriter.threaded import ThreadedWriter
from tests.support.records import record
from tests.support.redis_server import redis

before = sys.argv[2]
if before == "handled":
    signal.signal(signal.SIGTERM, lambda number, frame: (print("handled", flush=True), sys.exit(7)))
elif before == "ignored":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
writer = ThreadedWriter(sys.argv[1], linger=60).open()
writer.install_signal_handlers()
for _ in range(50):
    writer.send(record())
print("sent", flush=True)
if before == "ignored":
    sys.stdin.readline()
    print(writer.stats.persisted, flush=True)
else:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("before", "code", "said"), [("default", -signal.SIGTERM, ""), ("handled", 7, "handled\n"), ("ignored", 0, "50\n")]
)
async def test_a_script_told_to_end_delivers_first_and_ends_as_it_would_have(
    rwriter_engines: TestDbEngines, rwriter_database: str, before: str, code: int, said: str
) -> None:
    command = [sys.executable, "-c", SCRIPT, rwriter_database, before]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as script:
        assert script.stdout is not None
        assert await asyncio.to_thread(script.stdout.readline) == "sent\n"
        script.send_signal(signal.SIGTERM)
        if before == "ignored":
            await eventually(lambda: _rows(rwriter_engines, 50))
        output, _ = await asyncio.to_thread(script.communicate, "\n")
    assert (script.returncode, output) == (code, said)
    assert len(await stored(rwriter_engines)) == 50


async def _rows(engines: TestDbEngines, number: int) -> bool:
    return len(await stored(engines)) == number


# -- jobs that end by os._exit


def _work_off(url: str, job: str, *arguments: object) -> None:
    """Have a worker of rq do one job in a process of its own, which it forks."""
    import redis as client
    from rq import Queue

    with client.Redis.from_url(url, retry=client.retry.Retry(client.backoff.ConstantBackoff(0.1), 100)) as connection:
        Queue("records", connection=connection).enqueue(f"tests.support.jobs.{job}", *arguments)
    worker = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", url, "records"]
    subprocess.run(worker, check=True, capture_output=True, cwd=ROOT, timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="rq needs a redis-server")
@pytest.mark.parametrize("job", ["record_and_leave", "record_and_flush"])
async def test_a_job_of_rq_that_closes_or_flushes_its_writer_has_its_rows(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path, job: str
) -> None:
    with redis(tmp_path) as url:
        await asyncio.to_thread(_work_off, url, job, rwriter_database, 20)
    assert len(await stored(rwriter_engines)) == 20


# -- an application entered twice


def make_app(url: str, received: list[CompletedRequest]) -> Starlette:
    """Make an application with a writer in its lifespan: the next lifespan makes another."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with DbEngines.from_url(url) as engines, RequestsWriter(engines) as app.state.writer:
            yield

    async def call(request: Request) -> Response:
        received.append(record())
        await request.app.state.writer.send(received[-1])
        return PlainTextResponse("ok")

    return Starlette(lifespan=lifespan, routes=[Route("/", call)])


def test_an_application_that_makes_its_writer_in_the_lifespan_may_be_entered_twice(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    received: list[CompletedRequest] = []
    app = make_app(rwriter_database, received)
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").status_code == 200
    assert asyncio.run(stored(rwriter_engines)) == ids(received)
    assert len(received) == 2


# -- nobody refers to it any more


async def test_a_writer_that_nobody_refers_to_delivers_what_it_accepted(
    rwriter_engines: TestDbEngines, rwriter_database: str
) -> None:
    item = record()
    async with through_a_proxy(rwriter_database) as (proxy, engine):

        async def send_and_forget() -> None:
            writer = await RequestsWriter(engine, max_retries=0, retry_base_delay=0.01).__aenter__()
            proxy.cut()
            await writer.send(item)
            await eventually(lambda: writer.health.state == "holding")

        await send_and_forget()
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)
        proxy.heal()
        await eventually(lambda: _rows(rwriter_engines, 1))
        (consumer,) = [task for task in asyncio.all_tasks() if task.get_name() == "rwriter-consumer"]
        consumer.cancel()
        await asyncio.wait({consumer})


async def test_an_idle_writer_that_nobody_refers_to_is_not_destroyed_in_the_middle(
    rwriter_engines: TestDbEngines,
) -> None:
    async def open_and_forget() -> None:
        await RequestsWriter(rwriter_engines).__aenter__()

    await open_and_forget()
    for _ in range(20):
        gc.collect()
        await asyncio.sleep(0)
    (consumer,) = [task for task in asyncio.all_tasks() if task.get_name() == "rwriter-consumer"]
    consumer.cancel()
    await asyncio.wait({consumer})


# -- the spool first

SERVICE = """
import asyncio, signal, sys
from rwriter import DbEngines, RequestsWriter, Spool
from tests.support.records import record
from tests.support.redis_server import redis

async def main():
    url, folder = sys.argv[1:]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with DbEngines.from_url(url, statement_timeout=600, connect_timeout=600) as engines:
        # only copies can be there before the drain ends
        writer = RequestsWriter(engines, spool=Spool(folder), drain_timeout=600, flush_timeout=600)
        async with writer:
            await writer.send(record(), wait="committed")
            print("open", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            for _ in range(250):
                await writer.send(record())
            print("sent", flush=True)
            await stop.wait()

asyncio.run(main())
"""


async def test_closing_puts_everything_into_the_spool_before_it_drains(
    rwriter_engines: TestDbEngines, rwriter_database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "spool"
    async with through_a_proxy(rwriter_database) as (proxy, engine):
        command = [sys.executable, "-c", SERVICE, proxy.url(rwriter_database), str(folder)]
        pipe = asyncio.subprocess.PIPE
        service = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT)
        assert service.stdin is not None
        assert service.stdout is not None
        assert await service.stdout.readline() == b"open\n"
        # the peer vanishes: each flush waits for it as long as it may
        proxy.stall()
        service.stdin.write(b"\n")
        assert await service.stdout.readline() == b"sent\n"
        service.terminate()
        looking = Spool(folder)
        await looking.open()

        async def everything_is_there() -> bool:
            return await looking.count() == 250

        await eventually(everything_is_there)
        # while it still drains: the supervisor has no patience left
        assert service.returncode is None
        service.kill()
        await service.wait()
        await looking.aclose()
        proxy.heal()
        async with RequestsWriter(engine, spool=Spool(folder), replay_interval=0.05):
            await eventually(lambda: _rows(rwriter_engines, 251))


async def test_what_the_drain_delivers_leaves_no_copy_in_the_spool(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    sent = [record() for _ in range(700)]
    async with RequestsWriter(rwriter_engines, spool=Spool(tmp_path), batch_size=50) as writer:
        for item in sent:
            writer.send_nowait(item)
    assert (writer.stats.persisted, writer.stats.spooled) == (700, 0)
    assert await stored(rwriter_engines) == ids(sent)
    spool = Spool(tmp_path)
    await spool.open()
    assert await spool.count() == 0
    await spool.aclose()


async def test_a_shutdown_that_begins_elsewhere_copies_at_once_and_shares_the_time(
    rwriter_engines: TestDbEngines, tmp_path: Path
) -> None:
    spool = Spool(tmp_path)
    writer = RequestsWriter(rwriter_engines, spool=spool, check_schema=False, drain_timeout=0.4)
    async with table_locked(rwriter_engines), writer:
        await writer.begin_shutdown()
        for _ in range(5):
            await writer.send(record())
        await writer.begin_shutdown()
        assert await spool.count() == 5
        # what ends before the writer may still hand over
        await writer.send(record())
    assert (writer.stats.spooled, writer.stats.dropped) == (6, 0)


def test_the_drain_takes_what_an_earlier_part_of_the_shutdown_left_of_the_time() -> None:
    lifecycle = RequestsWriter(create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/d"))._lifecycle
    assert lifecycle._time_left(50.0) == 8.0
    lifecycle._shutdown_began = 50.0
    assert lifecycle._time_left(53.0) == 5.0
    # the least that it delivers in
    assert lifecycle._time_left(500.0) == 2.0

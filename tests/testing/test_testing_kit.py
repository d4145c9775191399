"""``rwriter.testing`` hands a service's tests a server to be killed, and a line to be cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from rwriter import RwriterError
from rwriter.testing import THROWAWAY, PostgresServer, TcpProxy
from rwriter.testing._places import server_account, temporary_folder
from tests.support.driving import eventually

PATIENCE = 20.0
DEAD_LINE = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server for the tests of this file; running again after each."""
    with PostgresServer(settings=THROWAWAY | {"log_min_messages": "panic"}) as started:
        yield started


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user may enter, whoever runs the tests."""
    with tempfile.TemporaryDirectory(dir=temporary_folder(server_account())) as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def ask(url: str, query: str) -> Any:
    """The value ``query`` answers with, on a connection of its own."""
    connection = await asyncpg.connect(url, timeout=PATIENCE)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def refuses(url: str) -> bool:
    """Return True if nobody listens at ``url``."""
    try:
        await ask(url, "SELECT 1")
    except ConnectionRefusedError:
        return True
    return False


def owner(pid: int) -> int:
    """The user id a process runs as."""
    return Path(f"/proc/{pid}").stat().st_uid


# -- the server


async def test_a_started_server_answers_at_its_url_with_the_settings_asked_for(server: PostgresServer) -> None:
    assert server.running
    assert await ask(server.url(), "SELECT current_user || current_database()") == "postgrespostgres"
    assert await ask(server.url("template1"), "SELECT current_database()") == "template1"
    assert {name: await ask(server.url(), f"SHOW {name}") for name in THROWAWAY} == THROWAWAY
    assert await ask(server.url(), "SHOW server_encoding") == "UTF8"
    assert (server.bin_dir / "psql").is_file()


async def test_the_server_does_not_run_as_root(server: PostgresServer) -> None:
    pid = await ask(server.url(), "SELECT pg_backend_pid()")
    postmaster = int((server.data_dir / "postmaster.pid").read_text().split()[0])
    assert pid != postmaster
    assert owner(postmaster) == server.data_dir.stat().st_uid != 0
    if os.geteuid() != 0:
        assert owner(postmaster) == os.geteuid()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_stopped_server_refuses_and_comes_back_on_its_port_with_its_rows(
    server: PostgresServer, mode: str
) -> None:
    port = server.port
    await ask(server.url(), "CREATE TABLE IF NOT EXISTS kept (x int)")
    await ask(server.url(), "CHECKPOINT")
    await asyncio.to_thread(server.stop, mode)
    await asyncio.to_thread(server.stop, mode)
    assert not server.running
    assert await refuses(server.url())
    assert (await asyncio.to_thread(server.start)).port == port
    assert await ask(server.url(), "SELECT count(*) FROM kept") == 0


async def test_a_restarted_server_keeps_its_port_and_drops_its_connections(server: PostgresServer) -> None:
    port, connection = server.port, await asyncpg.connect(server.url())
    await asyncio.to_thread(server.restart)
    assert server.port == port
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    assert await ask(server.url(), "SELECT 1") == 1


async def test_a_killed_server_dies_with_all_its_backends_and_recovers_what_was_committed(
    server: PostgresServer,
) -> None:
    port, connection = server.port, await asyncpg.connect(server.url())
    backend = connection.get_server_pid()
    # too busy to notice by itself that the server is gone
    busy = asyncio.ensure_future(connection.execute("SELECT count(*) FROM generate_series(1, 1e12::bigint)"))
    await eventually(lambda: active(server, backend))
    await ask(server.url(), "CREATE TABLE survives AS SELECT 1 AS x")
    await asyncio.to_thread(server.kill)
    assert not server.running
    assert await refuses(server.url())
    await eventually(lambda: zombie(backend))
    with pytest.raises(DEAD_LINE):
        await busy
    assert (await asyncio.to_thread(server.start)).port == port
    assert await ask(server.url(), "SELECT x FROM survives") == 1


async def active(server: PostgresServer, backend: int) -> bool:
    """Return True while ``backend`` is at work on a statement."""
    query = f"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = {backend} AND state = 'active'"
    return bool(await ask(server.url(), query))


def zombie(pid: int) -> bool:
    """Return True if a process is gone, or dead with nobody to fetch its status."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


async def test_a_server_that_is_kept_is_adopted_by_the_next_and_deleted_at_last(folder: Path) -> None:
    with PostgresServer(data_dir=folder / "data", keep=True, settings=THROWAWAY) as first:
        await ask(first.url(), "CREATE DATABASE mine")
    second = PostgresServer(data_dir=folder / "data").start()
    try:
        assert second.port == first.port
        assert await ask(second.url("mine"), "SELECT current_database()") == "mine"
        assert await ask(second.url(), "SHOW fsync") == "off"
    finally:
        second.delete()
    assert await refuses(second.url())
    assert not first.running
    assert not (folder / "data").exists()


def test_a_server_that_was_never_started_has_no_port() -> None:
    with pytest.raises(RwriterError, match="not started"):
        _ = PostgresServer().port


def test_a_folder_without_postgresql_is_named_and_nothing_is_left_behind(folder: Path) -> None:
    nowhere = PostgresServer(folder / "no-such-bin", data_dir=folder / "data")
    with pytest.raises(RwriterError, match=str(folder / "no-such-bin")), nowhere:
        pass
    assert list(folder.iterdir()) == []


def test_a_server_that_will_not_start_says_why_and_nothing_is_left_behind(folder: Path) -> None:
    wrong = PostgresServer(data_dir=folder / "data", settings={"no_such_setting": "1"})
    with pytest.raises(RwriterError, match="no_such_setting"), wrong:
        pass
    assert list(folder.iterdir()) == []


# -- the line


@pytest.fixture
async def proxy(server: PostgresServer) -> AsyncIterator[TcpProxy]:
    """A line to the server."""
    async with TcpProxy("127.0.0.1", server.port) as line:
        yield line


@pytest.fixture
async def connection(server: PostgresServer, proxy: TcpProxy) -> AsyncIterator[Any]:
    """A live connection over it."""
    live = await asyncpg.connect(proxy.url(server.url()), timeout=PATIENCE)
    assert await live.fetchval("SELECT 1") == 1
    yield live
    live.terminate()


async def test_a_line_forwards_both_ways_and_counts_its_connections(
    server: PostgresServer, proxy: TcpProxy, connection: Any
) -> None:
    assert make_url(proxy.url(server.url("x"))).port == proxy.port != server.port
    assert await connection.fetchval("SELECT length($1)", "x" * 3_000_000) == 3_000_000
    assert len(await connection.fetchval("SELECT repeat('y', 3000000)")) == 3_000_000
    assert proxy.connections == 1


async def test_a_cut_line_resets_what_is_open_and_refuses_what_is_new_until_it_heals(
    server: PostgresServer, proxy: TcpProxy, connection: Any
) -> None:
    proxy.cut()
    with pytest.raises(DEAD_LINE):
        await connection.fetchval("SELECT 1")
    with pytest.raises(DEAD_LINE):
        await ask(proxy.url(server.url()), "SELECT 1")
    proxy.heal()
    assert await ask(proxy.url(server.url()), "SELECT 1") == 1


async def test_a_dropped_connection_is_gone_and_a_new_one_welcome(
    server: PostgresServer, proxy: TcpProxy, connection: Any
) -> None:
    proxy.drop()
    with pytest.raises(DEAD_LINE):
        await connection.fetchval("SELECT 1")
    assert await ask(proxy.url(server.url()), "SELECT 1") == 1


async def test_a_stalled_line_is_silent_and_open(server: PostgresServer, proxy: TcpProxy, connection: Any) -> None:
    proxy.stall()
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT 1", timeout=0.1)
    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.url(server.url()), timeout=0.1)
    assert not connection.is_closed()
    # accepted, and no answer
    assert proxy.connections >= 2


async def test_a_slow_line_holds_everything_back_until_it_heals(proxy: TcpProxy, connection: Any) -> None:
    proxy.slow(0.05)
    began = time.monotonic()
    assert await connection.fetchval("SELECT 1") == 1
    # one delay each way at the least; how much more is the machine's affair
    assert time.monotonic() - began >= 0.1
    proxy.slow(3600)
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT 1", timeout=0.1)
    proxy.heal()
    assert not proxy._delay


async def test_what_was_sent_into_a_stalled_line_never_arrives(
    server: PostgresServer, proxy: TcpProxy, connection: Any
) -> None:
    await ask(server.url(), "CREATE TABLE arrivals (x int)")
    backend = connection.get_server_pid()
    proxy.stall()
    sent = asyncio.ensure_future(connection.execute("INSERT INTO arrivals VALUES (1)"))
    await asyncio.sleep(0)
    proxy.heal()
    with pytest.raises(DEAD_LINE):
        await sent
    await eventually(lambda: gone(server, backend))
    assert await ask(server.url(), "SELECT count(*) FROM arrivals") == 0
    assert await ask(proxy.url(server.url()), "SELECT 1") == 1


async def gone(server: PostgresServer, backend: int) -> bool:
    """Return True if the server has done with ``backend``."""
    return bool(await ask(server.url(), f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {backend}"))


async def test_a_line_to_a_server_that_is_down_is_dead_too_and_comes_alive_with_it(
    server: PostgresServer, proxy: TcpProxy
) -> None:
    await asyncio.to_thread(server.stop)
    with pytest.raises(DEAD_LINE):
        await ask(proxy.url(server.url()), "SELECT 1")
    await asyncio.to_thread(server.start)
    assert await ask(proxy.url(server.url()), "SELECT 1") == 1


async def test_a_line_leaves_no_connection_and_no_task_behind_and_logs_no_error(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        open_one = await asyncpg.connect(proxy.url(server.url()))
        backend = open_one.get_server_pid()
        proxy.stall()
        connecting = asyncio.ensure_future(asyncpg.connect(proxy.url(server.url()), timeout=PATIENCE))
        await eventually(lambda: proxy.connections == 2)
    with pytest.raises(DEAD_LINE):
        await connecting
    with pytest.raises(DEAD_LINE):
        await open_one.fetchval("SELECT 1")
    await eventually(lambda: gone(server, backend))
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
    assert [entry.getMessage() for entry in caplog.records] == []

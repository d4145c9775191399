"""The data folder of a server: shared by whoever names it, and refused where others may have planted it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rwriter import RwriterError
from rwriter.testing import THROWAWAY, PostgresServer
from tests.support.servers import hostile, install, names, needs_root, program, value

# -- servers that are kept


def test_a_kept_server_keeps_its_programs_and_whoever_deletes_it_removes_them(place: Path, closed: Path) -> None:
    bin_dir, data = install(closed), place / "kept för"
    with PostgresServer(bin_dir, data_dir=data, keep=True, settings=THROWAWAY) as first:
        ran = program(first)
    shutil.rmtree(closed / bin_dir.parents[1].name)  # as with an environment that is removed
    second = PostgresServer(data_dir=data).start()
    assert second.port == first.port
    assert program(second) == ran
    second.delete()
    assert names(place) == []
    assert not first.running


def test_a_kept_server_that_is_started_again_leaves_no_older_copy_behind(place: Path, closed: Path) -> None:
    bin_dir, data = install(closed), place / "kept"
    for _ in range(2):
        with PostgresServer(bin_dir, data_dir=data, keep=True, settings=THROWAWAY) as server:
            assert value(server) == "here"
            assert len(names(place)) == (2 if os.geteuid() == 0 else 1)
            server.stop()
    PostgresServer(data_dir=data).delete()
    assert names(place) == []


def test_a_kept_server_that_does_not_start_leaves_no_copy_behind(place: Path, closed: Path) -> None:
    server = PostgresServer(install(closed), data_dir=place / "kept", keep=True, settings={"no_such_setting": "1"})
    with pytest.raises(RwriterError, match="no_such_setting"):
        server.start()
    assert names(place) == ["kept"]


def test_two_processes_that_start_one_server_at_the_same_time_share_it(place: Path) -> None:
    servers = [PostgresServer(data_dir=place / "kept", keep=True, settings=THROWAWAY) for _ in range(2)]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(PostgresServer.start, servers))
        assert servers[0].port == servers[1].port
        assert value(servers[1]) == "here"
    finally:
        servers[0].delete()
    assert names(place) == []


@needs_root
def test_the_copy_of_another_server_is_not_removed_whatever_a_server_wrote_down(place: Path, closed: Path) -> None:
    with PostgresServer(install(closed), settings=THROWAWAY) as server:
        other = PostgresServer(data_dir=place / "other", keep=True, settings=THROWAWAY).start()
        (other.data_dir / "postmaster.opts").write_text(f'{program(server)} "-D"\n')
        other.delete()
        assert program(server).is_file()
        assert value(server) == "here"


# -- the data folder that is asked for


def test_a_folder_named_from_where_the_process_is_is_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with PostgresServer(data_dir="data hér", settings=THROWAWAY) as server:
        assert value(server, "SHOW data_directory") == str(place.resolve() / "data hér")
    assert names(place) == []


@needs_root
def test_a_folder_that_the_servers_account_may_not_enter_is_named(closed: Path) -> None:
    with pytest.raises(RwriterError, match=f"may not enter .*: choose another data_dir than {closed}/data"):
        PostgresServer(data_dir=closed / "data").start()
    assert names(closed) == []


def link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


FOREIGN = [
    pytest.param(link, "symbolic link", id="link"),
    pytest.param(lambda folder: folder.chmod(0o770), "written to by others", id="writable-by-group"),
    pytest.param(lambda folder: folder.chmod(0o707), "written to by others", id="writable-by-others"),
    pytest.param(
        lambda folder: os.chown(folder, 1, 1), "belongs to another user", id="of-another-user", marks=needs_root
    ),
]


@pytest.mark.parametrize(("plant", "says"), FOREIGN)
def test_a_folder_that_others_may_have_planted_is_neither_used_nor_removed(
    place: Path, marker: Path, plant: Callable[[Path], None], says: str
) -> None:
    data = place / "data"
    with PostgresServer(data_dir=data, keep=True, settings=THROWAWAY) as server:
        # would end it, and run what it says, if it were believed
        (data / "postmaster.opts").write_text(f'{place}/evil "-D"\n')
    (place / "evil").write_text(hostile(marker))
    (place / "evil").chmod(0o755)
    owner = data.stat()
    plant(data)
    try:
        for use in (
            PostgresServer.start,
            PostgresServer.stop,
            PostgresServer.kill,
            PostgresServer.delete,
            PostgresServer.__enter__,
            lambda found: found.running,
        ):
            with pytest.raises(RwriterError, match=says):
                use(PostgresServer(data_dir=data))
        assert not marker.exists()
    finally:
        if data.is_symlink():
            data.unlink()
            data.with_name("elsewhere").rename(data)
        data.chmod(0o700)
        os.chown(data, owner.st_uid, owner.st_gid)
        survived = server.running
        server.delete()
    assert survived


def test_a_process_that_is_no_server_is_not_ended_for_its_number(place: Path) -> None:
    data = place / "data"
    data.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "600"]) as bystander:
        (data / "postmaster.pid").write_text(f"{bystander.pid}\n{data}\n1\n5432\n\n127.0.0.1\n\nready\n")
        try:
            server = PostgresServer(data_dir=data)
            assert not server.running
            server.stop()
            server.kill()
            server.delete()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_folder_with_anything_else_in_it_is_refused_and_left_as_it_is(place: Path) -> None:
    data = place / "data"
    data.mkdir(mode=0o700)
    (data / "thesis.txt").write_text("of three years")
    with pytest.raises(RwriterError, match="not empty"):
        PostgresServer(data_dir=data).start()
    assert (data / "thesis.txt").read_text() == "of three years"


HALF_DONE = """#!/bin/sh
for data; do :; done
mkdir "$data/base" && echo 18 >"$data/PG_VERSION" && exit 1
"""


def test_half_a_cluster_is_not_left_to_pass_for_a_whole_one(place: Path, closed: Path) -> None:
    breaks = install(closed)
    (breaks / "initdb").unlink()
    (breaks / "initdb").write_text(HALF_DONE)
    (breaks / "initdb").chmod(0o755)
    with pytest.raises(RwriterError, match="initdb failed"):
        PostgresServer(breaks, data_dir=place / "data").start()
    with PostgresServer(data_dir=place / "data", settings=THROWAWAY) as server:
        assert value(server) == "here"

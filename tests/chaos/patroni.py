"""Run two PostgreSQL nodes under Patroni, with etcd beside them; kill a node as a lost machine, or switch over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx

from rwriter.testing._places import run_as, server_account, temporary_folder
from tests.support.driving import eventually

BIN_DIR: Final = Path("/usr/lib/postgresql/15/bin")
NAMES: Final = ("one", "two")
PATIENCE: Final = 180.0
"""Seconds that a cluster may take to begin, to promote or to take a node back, on a busy machine."""

DCS: Final[dict[str, Any]] = {
    "ttl": 10,
    "loop_wait": 1,
    "retry_timeout": 3,
    # a commit is acknowledged when both nodes have it, and only a node that has all of them is promoted
    "synchronous_mode": True,
    "maximum_lag_on_failover": 0,
    "postgresql": {"use_pg_rewind": True, "parameters": {"wal_log_hints": "on", "max_connections": 50}},
}


def missing() -> str:
    """Return what is not installed, as a reason to leave the scenario out; empty if everything is there."""
    wanted = [name for name in ("patroni", "etcd") if shutil.which(name) is None]
    wanted += [] if (BIN_DIR / "initdb").is_file() else [f"PostgreSQL in {BIN_DIR}"]
    return f"needs {' and '.join(wanted)}: apt-get install patroni etcd-server postgresql-15" if wanted else ""


class Node:
    """One PostgreSQL with the Patroni that looks after it."""

    def __init__(self, name: str, folder: Path, port: int, api: int) -> None:
        self.name: Final = name
        self.port: Final = port
        self.api: Final = f"http://127.0.0.1:{api}"
        self.folder: Final = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["patroni", str(self.folder / f"{self.name}.yml")],
                stdout=log, stderr=log, cwd="/", start_new_session=True, **run_as(server_account()),
            )  # fmt: skip

    def kill(self) -> None:
        """``kill -9`` Patroni, the server and every backend at once."""
        if self._process is None:
            return
        # Patroni's server is no child of it
        victims = [*_tree(self._process.pid), *self._servers()]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        self._process.wait()
        self._process = None

    def _servers(self) -> list[int]:
        try:
            lines = (self.folder / self.name / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []
        return _tree(int(lines[0]))

    def log(self) -> str:
        """Return the end of Patroni's log."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")[-2000:]


class Cluster:
    """Two nodes and their etcd. ``url`` has both nodes, and means the one that takes writes."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder
        ports = _free_ports(6)
        self._etcd_ports: Final = ports[:2]
        self.nodes: Final = [Node(name, folder, *ports[at : at + 2]) for name, at in zip(NAMES, (2, 4), strict=True)]
        self._etcd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of the database on whichever node takes writes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def direct(self, node: Node) -> str:
        """Return the URL of one node."""
        return f"postgresql://postgres@127.0.0.1:{node.port}/postgres"

    async def start(self) -> Self:
        """Start everything, and wait until a leader has a synchronous standby."""
        self._start_etcd()
        for node in self.nodes:
            (self._folder / f"{node.name}.yml").write_text(json.dumps(self._config(node)))
            node.start()
        await self.whole()
        return self

    def stop(self) -> None:
        """Kill everything: nobody will miss it."""
        for node in self.nodes:
            node.kill()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()

    async def leader(self) -> Node:
        """Return the node that is the leader, waiting until there is one."""
        found: list[Node] = []

        async def is_there() -> bool:
            found[:] = [node for node in self.nodes if await _answers(node, "/primary")]
            return len(found) == 1

        await self._within_patience(is_there)
        return found[0]

    def other(self, node: Node) -> Node:
        """Return the node that is not ``node``."""
        return next(one for one in self.nodes if one is not node)

    async def whole(self) -> None:
        """Wait until there is a leader, and a standby that every commit waits for."""

        async def holds() -> bool:
            answers = [await _answers(node, path) for node in self.nodes for path in ("/primary", "/sync")]
            return answers in ([True, False, False, True], [False, True, True, False])

        await self._within_patience(holds)

    async def promoted(self, node: Node) -> None:
        """Wait until ``node`` is the leader."""
        await self._within_patience(lambda: _answers(node, "/primary"))

    async def switch_over(self, leader: Node) -> None:
        """Ask the leader to hand over to the other node, and wait until it has."""
        asked = {"leader": leader.name, "candidate": self.other(leader).name}
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            answer = await client.post(f"{leader.api}/switchover", json=asked)
        assert answer.status_code == 200, answer.text
        await self.promoted(self.other(leader))

    async def _within_patience(self, condition: Any) -> None:
        try:
            await eventually(condition, within=PATIENCE)
        except TimeoutError:
            raise AssertionError("\n".join(node.log() for node in self.nodes)) from None

    def _start_etcd(self) -> None:
        clients, peers = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        options = {
            "data-dir": str(self._folder / "etcd"),
            "listen-client-urls": clients,
            "advertise-client-urls": clients,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            "log-level": "error",
        }
        command = ["etcd", *(f"--{name}={value}" for name, value in options.items())]
        with (self._folder / "etcd.log").open("ab") as log:
            self._etcd = subprocess.Popen(command, stdout=log, stderr=log, **run_as(server_account()))

    def _config(self, node: Node) -> dict[str, Any]:
        trust = ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
        here = f"127.0.0.1:{node.port}"
        return {
            "scope": "rwriter",
            "name": node.name,
            "restapi": {
                "listen": node.api.removeprefix("http://"),
                "connect_address": node.api.removeprefix("http://"),
            },
            "etcd3": {"hosts": [f"127.0.0.1:{self._etcd_ports[0]}"]},
            "bootstrap": {"dcs": DCS, "initdb": [{"encoding": "UTF8"}, {"auth": "trust"}]},
            "postgresql": {
                "listen": here,
                "connect_address": here,
                "data_dir": str(self._folder / node.name),
                "bin_dir": str(BIN_DIR),
                "pgpass": str(self._folder / f"{node.name}.pgpass"),
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "postgres"}},
                "parameters": {"unix_socket_directories": str(self._folder)},
                "pg_hba": trust,
            },
        }


@contextlib.asynccontextmanager
async def cluster() -> Any:
    """Yield a running cluster in a folder of its own."""
    account = server_account()
    with tempfile.TemporaryDirectory(dir=temporary_folder(account)) as folder:
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        nodes = Cluster(Path(folder))
        try:
            yield await nodes.start()
        finally:
            await asyncio.to_thread(nodes.stop)


async def _answers(node: Node, path: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        async with httpx.AsyncClient(timeout=5) as client:
            return (await client.get(node.api + path)).status_code == 200
    return False


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _tree(pid: int) -> list[int]:
    """Return ``pid`` and everything that it started, in sessions of their own, too."""
    found = [pid]
    for parent in found:
        found += _children(parent)
    return found


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, task.read_text().split())

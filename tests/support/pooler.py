"""A real PgBouncer in transaction mode, in front of a server, to be killed and restarted."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, Popen
from types import TracebackType
from typing import Final, Self

from sqlalchemy import make_url

from rwriter.testing._places import run_as, server_account, temporary_folder
from tests.support.rows import need

PATIENCE: Final = 60.0
FEW: Final = 3  # server connections: they change hands between clients all the time

CONFIGURATION: Final = """
[databases]
* = host={host} port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
server_login_retry = 1
ignore_startup_parameters = {ignored}
logfile = {folder}/log
pidfile = {folder}/pid
"""


class PgBouncer:
    """Pools connections to the server at ``host`` and ``server_port``; listens on one ``port`` through restarts."""

    def __init__(self, server_port: int, *, host: str = "127.0.0.1", pool_size: int = FEW, ignored: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: Final[int] = probe.getsockname()[1]
        self._server_port: Final = server_port
        self._pool_size: Final = pool_size
        self._host: Final = host
        self._ignored: Final = ignored
        self._folder: Final = tempfile.TemporaryDirectory(
            prefix="rwriter-pgbouncer-", dir=temporary_folder(server_account())
        )
        self._process: Popen[bytes] | None = None

    def url(self, url: str) -> str:
        """Return ``url`` with the pooler's address in place of the server's."""
        return make_url(url).set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    async def __aenter__(self) -> Self:
        folder = Path(self._folder.name)
        configuration = CONFIGURATION.format(
            host=self._host,
            server_port=self._server_port,
            port=self.port,
            pool_size=self._pool_size,
            folder=folder,
            ignored=self._ignored,
        )
        (folder / "pgbouncer.ini").write_text(configuration)
        account = server_account()
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
            (folder / "pgbouncer.ini").chmod(0o644)
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    async def start(self) -> None:
        """Start PgBouncer, and wait until it takes connections."""
        options = run_as(server_account())  # it refuses to be root
        command = [need("pgbouncer"), f"{self._folder.name}/pgbouncer.ini"]
        self._process = Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, cwd="/", **options)
        deadline = time.monotonic() + PATIENCE
        while not await self._listens():
            assert self._process.poll() is None, "pgbouncer ended: is its configuration right?"
            assert time.monotonic() < deadline, "pgbouncer does not listen"
            await asyncio.sleep(0.02)

    def kill(self) -> None:
        """``kill -9`` PgBouncer: clients and servers find their connections cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

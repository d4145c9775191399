"""Start a primary with a streaming standby, and promote it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from rwriter.testing import PostgresServer
from rwriter.testing._places import server_account, temporary_folder
from tests.chaos.ground import bin_dir


@contextmanager
def primary_and_standby() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Yield a running primary and its standby. Replication is asynchronous until the primary is told otherwise."""
    with PostgresServer(bin_dir()) as primary:
        with tempfile.TemporaryDirectory(dir=temporary_folder(server_account())) as folder:
            data = Path(folder) / "data"
            data.mkdir(mode=0o700)
            # as PostgresServer does: the server's account must own its folder, and reach it
            owner = primary.data_dir.stat()
            for path in (data, data.parent):
                path.chmod(0o700)
                os.chown(path, owner.st_uid, owner.st_gid)
            primary._run(
                "pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres",
                "-D", str(data), "--wal-method=stream", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
            )  # fmt: skip
            standby = PostgresServer(bin_dir(), data_dir=data)
            try:
                yield primary, standby.start()
            finally:
                standby.delete()


def promote(standby: PostgresServer) -> None:
    """Make ``standby`` the primary, and wait until it takes writes."""
    standby._pg_ctl("promote", "-w")


def several_hosts(url: str, *ports: int) -> str:
    """Return ``url`` with one host for each port; clients connect to the first that takes writes."""
    database = make_url(url).database
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"

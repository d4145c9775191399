"""The embedded PostgreSQL put elsewhere, and what a test asks of a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter.testing import PostgresServer
from rwriter.testing._programs import embedded_bin_dir

ODD_NAME = "für mich allein"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be kept apart from the server's account")


def install(folder: Path) -> Path:
    """Put the embedded PostgreSQL in ``folder`` as pip does; its ``bin_dir``."""
    original = embedded_bin_dir().parent
    package = original.parent
    bin_dir = folder / package.name / original.name / "bin"
    shutil.copytree(original, bin_dir.parent, ignore=shutil.ignore_patterns("include", "__pycache__"))
    shutil.copy(package / "__init__.py", folder / package.name)
    libraries = f"{package.name}.libs"
    if (package.parent / libraries).is_dir():
        shutil.copytree(package.parent / libraries, folder / libraries)
    return bin_dir


def value(server: PostgresServer, query: str = "SELECT 'here'", database: str = "postgres") -> Any:
    """Return the server's answer."""

    async def ask() -> Any:
        connection = await asyncpg.connect(server.url(database))
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(ask())


def program(server: PostgresServer) -> Path:
    """The program that the server runs from."""
    pid = (server.data_dir / "postmaster.pid").read_text().split()[0]
    return Path(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def hostile(marker: Path) -> str:
    """A program that shows that it was run."""
    return f"#!/bin/sh\ntouch '{marker}'\nexit 1\n"


def strict(bin_dir: Path) -> None:
    """Take away from the programs what an umask of 077 does not give."""
    for path in (bin_dir.parents[2], *bin_dir.parents[2].rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)


@contextlib.asynccontextmanager
async def database_away() -> AsyncIterator[AsyncEngine]:
    """Yield an engine for a server that is not there."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none", poolclass=NullPool)
    yield engine
    await engine.dispose()

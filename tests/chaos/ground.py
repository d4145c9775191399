"""Give a scenario a server that it may kill, databases on it, and a folder to write to."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any, Final

from rwriter.pytest_plugin import BIN_DIR_VARIABLE, Databases
from rwriter.testing import PostgresServer
from tests.chaos.harness import Service
from tests.chaos.service import Orders


def bin_dir() -> str | None:
    """Return the folder of the PostgreSQL to use; ``None`` for the embedded one."""
    return os.environ.get(BIN_DIR_VARIABLE) or None


class Ground:
    """A server that keeps what it acknowledged (fsync on), and a scratch folder."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self.server: Final = server
        self._folder: Final = folder
        self._databases: Final = Databases(server.url())
        self._made: Final[list[str]] = []
        self._numbers = 0

    async def database(self) -> str:
        """Create a migrated database and return its URL; ``clear`` drops it."""
        name = await asyncio.to_thread(lambda: self._databases.create(self._databases.template()))
        self._made.append(name)
        return self._databases.url(name)

    def clear(self) -> None:
        """Drop the databases of a finished scenario: their contents would make the next recovery longer."""
        while self._made:
            self._databases.drop(self._made.pop())

    def folder(self, name: str) -> Path:
        """Create an empty folder."""
        self._numbers += 1
        folder = self._folder / f"{self._numbers}-{name}"
        folder.mkdir(parents=True)
        return folder

    def service(self, orders: Orders) -> Service:
        """Return a service, not started yet, with a log of its own."""
        return Service(orders, self.folder("service") / "log")


def chance(seed: int) -> random.Random:
    """Return a source of random moments, the same in every run."""
    return random.Random(seed)  # noqa: S311 -- moments, not secrets


def quick(**options: Any) -> dict[str, Any]:
    """Return options of a writer that gives up and replays quickly."""
    chosen = {"max_retries": 1, "retry_base_delay": 0.02, "retry_max_delay": 0.2, "replay_interval": 0.2}
    return chosen | options

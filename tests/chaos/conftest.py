"""A server for the faults of this folder: its own, as they kill it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwriter.testing import PostgresServer
from tests.chaos.ground import Ground, bin_dir


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A server with fsync on, and a scratch folder."""
    with PostgresServer(bin_dir()) as server:
        yield Ground(server, tmp_path_factory.mktemp("chaos"))

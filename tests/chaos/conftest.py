"""Start a server for this folder's scenarios alone, as they kill it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwriter.testing import PostgresServer
from tests.chaos.ground import Ground, bin_dir


@pytest.fixture(scope="session")
def _ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with PostgresServer(bin_dir()) as server:
        yield Ground(server, tmp_path_factory.mktemp("chaos"))


@pytest.fixture
def ground(_ground: Ground) -> Iterator[Ground]:
    """Yield a running server with fsync on and no databases of other scenarios, and a scratch folder."""
    yield _ground
    _ground.server.start()
    _ground.clear()

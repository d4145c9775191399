"""Fixtures of rwriter's own suite, on top of the shipped plugin."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

from rwriter.pytest_plugin import Databases

pytest_plugins = ["pytester", "tests.support.fixtures"]


@pytest.fixture
def empty_database(_rwriter_databases: Databases) -> Iterator[str]:
    """URL of a database without any table, for this test alone."""
    name = _rwriter_databases.create()
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


# a developer's own settings are none of the suite's; those that name its server are
for _name in [name for name in os.environ if name in {"RWRITER_DATABASE_URL", "RWRITER_SCHEMA"}]:
    del os.environ[_name]


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    """A blocking call made by rwriter on the event loop fails the test that caused it."""
    with blockbuster_ctx("rwriter") as blockbuster:
        for name, function in blockbuster.functions.items():
            if name.startswith(("os.", "io.")):
                function.deactivate()  # asyncpg looks for ~/.pgpass and certificates each time it connects
        # whoever stops a server waits for it, a test on the loop too
        blockbuster.functions["time.sleep"].can_block_in("rwriter/testing/_postgres.py", {"_within"})
        yield

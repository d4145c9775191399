"""A migrated database for the many tests that change nothing in it, and the wheel, installed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rwriter.pytest_plugin import Databases
from tests.support.wheel import Environment


@pytest.fixture(scope="module")
def unchanged_database(_rwriter_databases: Databases) -> Iterator[str]:
    """URL of a database migrated to head, for tests that leave it as it is."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel in it."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(wheel)
    return environment

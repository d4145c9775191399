"""A database with something on it, made once for the tests that only look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwriter import RequestStore
from rwriter.pytest_plugin import Databases, _run
from rwriter.testing import TestDbEngines
from tests.admin.shown import fill
from tests.support.fixtures import unpooled


@pytest.fixture(scope="module")
def filled(_rwriter_databases: Databases) -> Iterator[TestDbEngines]:
    """Engines on a database with the rows of ``fill``."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    engines = TestDbEngines(unpooled(_rwriter_databases.url(name), "asyncpg"), direct=True)
    _run(fill(RequestStore(engines)))
    yield engines
    _rwriter_databases.drop(name)

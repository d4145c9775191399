"""A migrated database for the many tests that change nothing in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwriter.pytest_plugin import Databases


@pytest.fixture(scope="module")
def unchanged_database(_rwriter_databases: Databases) -> Iterator[str]:
    """URL of a database migrated to head, for tests that leave it as it is."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)

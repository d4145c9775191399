"""Fixtures of rwriter's own suite, on top of the shipped plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwriter.pytest_plugin import Databases

pytest_plugins = ["pytester"]


@pytest.fixture
def empty_database(_rwriter_databases: Databases) -> Iterator[str]:
    """URL of a database without any table, for this test alone."""
    name = _rwriter_databases.create()
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)

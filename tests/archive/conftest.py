"""Partitioned tables with requests of two past weeks and of now; and an archive of them that is made once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore
from rwriter.archive import ArchiveStore
from rwriter.partitions import ensure
from rwriter.pytest_plugin import Databases
from tests.support.archiving import Aged, Moved, aged_records, moved_into
from tests.support.fixtures import unpooled
from tests.support.schemas import AWKWARD_SCHEMA


@pytest.fixture
def partitioned() -> Literal["week"]:
    """Every database here is partitioned."""
    return "week"


@pytest.fixture
def awkward() -> str:
    """The name of a schema that has to be quoted. A test that asks for it has its tables there."""
    return AWKWARD_SCHEMA


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> str | None:
    """The schema of the tables."""
    return AWKWARD_SCHEMA if "awkward" in request.fixturenames else None


@pytest.fixture
async def aged(engine: AsyncEngine, store: RequestStore) -> Aged:
    """Store requests of three owners in two past weeks, and of now."""
    now = datetime.now(UTC)
    await ensure(engine, since=now - timedelta(weeks=2))
    found = aged_records(now)
    await store.persist_completed([*found.first_week, *found.second_week, *found.today])
    return found


@pytest.fixture(scope="session")
def moved(_rwriter_databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """Move the same into a folder, once for all tests that only read it or work on a copy."""
    name = _rwriter_databases.create(_rwriter_databases.template(partitioned="week"))
    engine = unpooled(_rwriter_databases.url(name), "asyncpg")
    folder = tmp_path_factory.mktemp("archive")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(asyncio.run, moved_into(engine, folder)).result()
    _rwriter_databases.drop(name)


@pytest.fixture
def folder(moved: Moved, tmp_path: Path) -> Path:
    """A copy of the archive, for this test alone."""
    copied = tmp_path / "archive"
    shutil.copytree(moved.folder, copied)
    return copied


@pytest.fixture
def archive(folder: Path) -> Iterator[ArchiveStore]:
    """The store on that copy."""
    with ArchiveStore(folder) as store:
        yield store

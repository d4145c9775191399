"""A store on a database of its own, in the default schema and in one with an awkward name; and the built wheel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import RequestStore
from rwriter.engines._urls import connect_arguments
from rwriter.pytest_plugin import Databases
from rwriter.store import _listing
from rwriter.testing import TestDbEngines
from tests.support.databases import CleanDatabases
from tests.support.schemas import AWKWARD_SCHEMA
from tests.support.wheel import Environment, build


@pytest.fixture(autouse=True)
def _patient_count() -> Iterator[None]:
    """Totals are exact however busy the machine is, but where a test is about their haste."""
    # not the fixture of that name: made here for every test, it would undo a test's own patches after all its fixtures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_listing, "COUNT_TIMEOUT_MS", 60_000)
        yield


@pytest.fixture(params=[None, AWKWARD_SCHEMA], ids=["default_schema", "named_schema"])
def schema(request: pytest.FixtureRequest) -> str | None:
    """The schema the tables are in; ``None`` is the first of the search_path."""
    name: str | None = request.param
    return name


@pytest.fixture
def partitioned(request: pytest.FixtureRequest) -> Literal["week", "day"] | None:
    """The length of the partitions in this test's database, ``None`` for plain tables."""
    period: Literal["week", "day"] | None = getattr(request, "param", request.config.getoption("partitioned"))
    return period


@pytest.fixture(scope="session")
def clean_databases(_rwriter_databases: Databases, rwriter_postgres: str) -> Iterator[CleanDatabases]:
    """The databases of this run that tests get and give back."""
    databases = CleanDatabases(
        _rwriter_databases, _rwriter_databases.url(make_url(rwriter_postgres).database or "postgres")
    )
    yield databases
    databases.close()


@pytest.fixture
def database(
    clean_databases: CleanDatabases, schema: str | None, partitioned: Literal["week", "day"] | None
) -> Iterator[str]:
    """URL of a database migrated to head in ``schema``, for this test alone."""
    with clean_databases.lent(schema, partitioned) as url:
        yield url


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> str:
    """The driver this run of the suite is for: ``asyncpg`` or ``psycopg``."""
    return str(request.config.getoption("driver"))


@pytest.fixture
def engines(database: str, schema: str | None, driver: str) -> TestDbEngines:
    """The engine swap on ``database``: its ``read`` refuses writes."""
    return TestDbEngines(unpooled(database, driver), schema=schema, direct=True)


@pytest.fixture
def rwriter_database(clean_databases: CleanDatabases, partitioned: Literal["week", "day"] | None) -> Iterator[str]:
    """The plugin's fixture of that name, in the variant of this test."""
    with clean_databases.lent(partitioned=partitioned) as url:
        yield url


@pytest.fixture
def rwriter_engines(rwriter_database: str, driver: str) -> TestDbEngines:
    """The plugin's fixture of that name, on the driver of this run."""
    return TestDbEngines(unpooled(rwriter_database, driver), direct=True)


def unpooled(database: str, driver: str) -> AsyncEngine:
    """Make an engine without a pool: its connections would belong to the loop of one test, and need it to close."""
    url, connect_args = connect_arguments(database)
    if driver != "asyncpg":
        url, connect_args = url.set(drivername=f"postgresql+{driver}"), {}
    return create_async_engine(url, connect_args=connect_args, poolclass=NullPool, hide_parameters=True)


@pytest.fixture
def engine(engines: TestDbEngines) -> AsyncEngine:
    """Return the engine that tests look at rows with, by SQL of their own."""
    return engines.write


@pytest.fixture
def store(engines: TestDbEngines) -> RequestStore:
    """The store under test."""
    return RequestStore(engines)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel in it."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(wheel)
    return environment

"""Fixtures, options and markers of rwriter's own suite, on top of the shipped plugin."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from blockbuster import blockbuster_ctx

from rwriter._values.keys import _keys
from rwriter.pytest_plugin import Databases
from tests.support.schemas import AWKWARD_SCHEMA

pytest_plugins = ["pytester", "tests.support.fixtures"]

CHAOS: Final = Path(__file__).parent / "chaos"
PARTITIONS: Final = Path(__file__).parent / "partitions"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--every-schema``, ``--driver`` and ``--partitioned``."""
    parser.addoption(
        "--every-schema",
        action="store_true",
        help="run every test of the store in both schemas, not only those marked both_schemas",
    )
    parser.addoption(
        "--driver",
        choices=("asyncpg", "psycopg"),
        default="asyncpg",
        help="the driver of the engines that tests get from fixtures",
    )
    parser.addoption(
        "--partitioned",
        choices=("week", "day"),
        help="partition the tables of every migrated database, not only of the tests marked both_variants",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a sample of the tests on partitioned tables, too: those of each statement, and those marked so."""
    if "partitioned" not in metafunc.fixturenames or metafunc.config.getoption("partitioned") is not None:
        return
    is_sampled = any(map(metafunc.definition.get_closest_marker, ("both_variants", "both_schemas")))
    if is_sampled and not metafunc.definition.path.is_relative_to(PARTITIONS):
        metafunc.parametrize("partitioned", [None, "week"], ids=["plain", "partitioned"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a PostgreSQL, and leave the second schema to a sample of the tests."""
    for item in items:
        if item.path.is_relative_to(CHAOS):
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.db)
        # the closure of fixtures: a test that asks for a database asks for the server through it
        elif "rwriter_postgres" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.db)
    if not config.getoption("every_schema"):
        _leave_out(config, items, _is_beyond_the_sample)
    if config.getoption("partitioned") is not None:
        _leave_out(config, items, lambda item: item.get_closest_marker("plain_only") is not None)


def _leave_out(config: pytest.Config, items: list[pytest.Item], is_left_out: Callable[[pytest.Item], bool]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
    items[:] = [item for item in items if not is_left_out(item)]


def _is_beyond_the_sample(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    if call is None or call.params.get("schema") != AWKWARD_SCHEMA:
        return False
    # one departure from the usual at a time
    return item.get_closest_marker("both_schemas") is None or call.params.get("partitioned") is not None


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have pytest make its folder before a test points ``tempfile`` at one that goes with the test."""
    tmp_path_factory.getbasetemp()


@pytest.fixture(autouse=True)
def _pepper_of_this_test() -> Iterator[None]:
    """Take back the pepper that a test, or a program it runs in this process, has set. A missing one is not told."""
    _keys.asked_environment = True
    yield
    _keys.pepper, _keys.asked_environment = None, True


@pytest.fixture(scope="session")
def _rwriter_databases(rwriter_postgres: str, pytestconfig: pytest.Config) -> Iterator[Databases]:
    """The plugin's fixture of that name, with the variant of this run."""
    databases = Databases(rwriter_postgres, pytestconfig.getoption("partitioned"))
    yield databases
    databases.close()


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

"""The pytest plugin ``rwriter``: a real PostgreSQL and a migrated database for every test.

============================ ======== ==========================================================================
fixture                      scope    value
============================ ======== ==========================================================================
``rwriter_postgres``         session  URL of a server: ``RWRITER_TEST_DATABASE_URL``, else one started here
``rwriter_database``         function URL of a migrated database of its own, dropped after the test
``rwriter_engines``          function ``TestDbEngines`` on it: what the service's code gets instead of ``DbEngines``
============================ ======== ==========================================================================

Each is overridden by a fixture of the same name in the service's ``conftest.py``. ``RWRITER_TEST_POSTGRES_BIN_DIR``
names the binaries to start instead of the embedded server's. With no PostgreSQL to be had, tests fail.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from rwriter.testing import TestDbEngines

URL_VARIABLE = "RWRITER_TEST_DATABASE_URL"
BIN_DIR_VARIABLE = "RWRITER_TEST_POSTGRES_BIN_DIR"

# pytest loads this module in every project beside it: imports of the library, and of what takes long, wait.


class Databases:
    """Makes databases on one server: a migrated template for each schema and variant, then clones of it.

    ``partitioned`` is the variant of the templates that are asked for without one.
    """

    def __init__(self, server_url: str, partitioned: Literal["week", "day"] | None = None) -> None:
        self._server_url = server_url
        self._partitioned = partitioned
        self._templates: dict[tuple[str | None, str | None], str] = {}

    def url(self, name: str) -> str:
        """Return the URL of database ``name`` on this server."""
        from sqlalchemy import make_url

        return (
            make_url(self._server_url).set(drivername="postgresql", database=name).render_as_string(hide_password=False)
        )

    def create(self, template: str = "template1") -> str:
        """Create a database and return its name."""
        import uuid

        name = f"rwriter_test_{uuid.uuid4().hex}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        """Drop a database and close its connections."""
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def template(self, schema: str | None = None, partitioned: Literal["week", "day"] | None = None) -> str:
        """Return the name of a database migrated to head in ``schema``."""
        variant = partitioned or self._partitioned
        if (schema, variant) not in self._templates:
            from rwriter.migrate import upgrade

            name = self.create()
            self._templates[schema, variant] = name
            _run(upgrade(self.url(name), schema=schema, partitioned=variant))
        return self._templates[schema, variant]

    def close(self) -> None:
        """Drop the templates."""
        for name in self._templates.values():
            self.drop(name)

    def _execute(self, statement: str) -> None:
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool

        from rwriter.engines._urls import connect_arguments

        async def main() -> None:
            url, connect_args = connect_arguments(self._server_url)
            # CREATE DATABASE refuses to run in a transaction
            engine = create_async_engine(
                url, connect_args=connect_args, poolclass=NullPool, isolation_level="AUTOCOMMIT"
            )
            async with engine.connect() as connection:
                await connection.execute(text(statement))

        _run(main())


@pytest.fixture(scope="session")
def rwriter_postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server whose user may create databases."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        yield url
        return
    from rwriter.testing import THROWAWAY, PostgresServer

    with PostgresServer(os.environ.get(BIN_DIR_VARIABLE) or None, settings=THROWAWAY) as server:
        yield server.url()


@pytest.fixture(scope="session")
def _rwriter_databases(rwriter_postgres: str) -> Iterator[Databases]:
    databases = Databases(rwriter_postgres)
    yield databases
    databases.close()


@pytest.fixture
def rwriter_database(_rwriter_databases: Databases) -> Iterator[str]:
    """Yield the URL of a database migrated to head, for this test alone."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


@pytest.fixture
def rwriter_engines(rwriter_database: str) -> TestDbEngines:
    """Provide the engine swap: hand this to the code under test in place of its ``DbEngines``."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    from rwriter.engines._urls import connect_arguments
    from rwriter.testing import TestDbEngines

    url, connect_args = connect_arguments(rwriter_database)
    # no pool: its connections would belong to the event loop of one test, and need it to close
    engine = create_async_engine(url, connect_args=connect_args, poolclass=NullPool, hide_parameters=True)
    return TestDbEngines(engine, direct=True)


def _run(work: Coroutine[Any, Any, None]) -> None:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    # on a thread of its own: this thread may run the test's event loop
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()

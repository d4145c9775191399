"""The pytest plugin in a service's own project: run there, as the service would run it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rwriter.engines._urls import connect_arguments

URL_VARIABLE = "RWRITER_TEST_DATABASE_URL"
BIN_DIR_VARIABLE = "RWRITER_TEST_POSTGRES_BIN_DIR"
INI = "[pytest]\nfilterwarnings = error\n"
ASYNC_INI = INI + "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"

SERVICE = '''
import uuid
from datetime import UTC, datetime
from rwriter import CompletedRequest, RequestStore

ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")

def record():
    now = datetime.now(UTC)
    return CompletedRequest(
        request_id=ID, status_code=200, response_body="{}", request_body="{}", model="m", endpoint="/v1/responses",
        api_key="k", created_by="me", started_at=now, completed_at=now,
    )

async def serve(engines):
    """What the service does with its engines: one row written, and read back."""
    store = RequestStore(engines)
    result = await store.persist_completed([record()])
    assert (result.inserted, (await store.get_request(ID)).created_by) == (1, "me")
'''

SYNC_TESTS = """
import asyncio
import pytest
from service import serve

@pytest.mark.parametrize("_", range(2))
def test_each_test_finds_an_empty_database(rwriter_engines, _):
    asyncio.run(serve(rwriter_engines))

def test_a_url_may_be_asked_for_too(rwriter_database, rwriter_postgres):
    assert rwriter_database != rwriter_postgres
    assert "rwriter_test_" in rwriter_database
"""

ASYNC_TESTS = """
import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError
from rwriter.schema import request_templates
from service import serve

a_template = insert(request_templates).values(endpoint="", method="", path="", model="", api_key="")

@pytest.fixture
async def prepared(rwriter_engines):
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(a_template)
    return rwriter_engines

@pytest.mark.parametrize("_", range(2))
async def test_async_tests_and_fixtures_share_a_database_of_their_own(prepared, _):
    async with prepared.read.connect() as connection:
        assert len((await connection.execute(select(request_templates.c.id))).all()) == 1
    await serve(prepared)

async def test_a_write_on_the_reading_engine(rwriter_engines):
    with pytest.raises(DBAPIError) as caught:
        async with rwriter_engines.read.begin() as connection:
            await connection.execute(a_template)
    assert caught.value.orig.sqlstate == "25006"

async def test_code_that_writes_on_the_reading_engine_fails_like_this(rwriter_engines):
    class Swapped:
        write = read = rwriter_engines.read
    await serve(Swapped())
"""


@pytest.fixture
def service(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, rwriter_postgres: str) -> pytest.Pytester:
    """A service's project, whose tests run on this session's server."""
    pytester.makeini(ASYNC_INI)
    pytester.makepyfile(service=SERVICE)
    monkeypatch.setenv(URL_VARIABLE, rwriter_postgres)
    # nothing else can be started by mistake
    monkeypatch.setenv(BIN_DIR_VARIABLE, "/nonexistent")
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    # of the plugins that happen to be installed here, one takes longer to import than everything else
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:schemathesis", *options)


def databases(url: str) -> set[str]:
    """The test databases on the server."""

    async def ask() -> set[str]:
        parsed, arguments = connect_arguments(url)
        engine = create_async_engine(parsed, connect_args=arguments, poolclass=NullPool)
        async with engine.connect() as connection:
            query = text("SELECT datname FROM pg_database WHERE datname LIKE 'rwriter_test_%'")
            return set((await connection.execute(query)).scalars())

    return asyncio.run(ask())


def test_a_service_tests_its_own_code_and_every_database_is_dropped(
    service: pytest.Pytester, rwriter_postgres: str
) -> None:
    before = databases(rwriter_postgres)
    service.makepyfile(test_sync=SYNC_TESTS, test_async=ASYNC_TESTS)
    result = run(service)
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["FAILED *test_code_that_writes_on_the_reading_engine_fails_like_this*"])
    result.stdout.fnmatch_lines(["*ReadOnlySQLTransactionError*"])
    assert databases(rwriter_postgres) == before


def test_sync_tests_need_no_asyncio_plugin(service: pytest.Pytester) -> None:
    service.makeini(INI)
    service.makepyfile(test_sync=SYNC_TESTS)
    run(service, "-p", "no:asyncio", "-p", "no:anyio").assert_outcomes(passed=3)


def test_a_server_of_the_services_own_takes_the_place_of_the_plugins(
    service: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, rwriter_postgres: str
) -> None:
    monkeypatch.delenv(URL_VARIABLE)
    service.makeconftest(f"""
        import pytest

        @pytest.fixture(scope="session")
        def rwriter_postgres():
            return {rwriter_postgres!r}
    """)
    service.makepyfile(test_sync=SYNC_TESTS)
    run(service).assert_outcomes(passed=3)


def test_a_database_of_the_services_own_takes_the_place_of_the_plugins(
    service: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, rwriter_database: str
) -> None:
    monkeypatch.delenv(URL_VARIABLE)
    service.makeconftest(f"""
        import pytest

        @pytest.fixture
        def rwriter_database():
            return {rwriter_database!r}
    """)
    service.makepyfile("""
        from service import serve

        async def test_it(rwriter_engines):
            await serve(rwriter_engines)
    """)
    run(service).assert_outcomes(passed=1)


def test_engines_of_the_services_own_take_the_place_of_the_plugins(
    service: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, rwriter_database: str
) -> None:
    monkeypatch.delenv(URL_VARIABLE)
    service.makeconftest(f"""
        import pytest
        from rwriter import DbEngines

        @pytest.fixture
        async def rwriter_engines():
            async with DbEngines.from_url({rwriter_database!r}) as engines:
                yield engines
    """)
    service.makepyfile("""
        from rwriter import DbEngines
        from service import serve

        async def test_it(rwriter_engines):
            assert isinstance(rwriter_engines, DbEngines)
            await serve(rwriter_engines)
    """)
    run(service).assert_outcomes(passed=1)


def test_without_any_postgresql_tests_fail_with_the_reason_and_are_not_skipped(
    service: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(URL_VARIABLE)
    service.makepyfile("def test_it(rwriter_engines): ...\n\ndef test_without_it(): ...")
    result = run(service)
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["E *RwriterError: *nonexistent*"])


def test_with_no_server_given_one_is_started_and_removed(
    service: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, rwriter_postgres: str
) -> None:
    monkeypatch.delenv(URL_VARIABLE)
    monkeypatch.delenv(BIN_DIR_VARIABLE)
    service.makepyfile("""
        import os, pathlib

        def test_it(rwriter_postgres):
            pathlib.Path("url").write_text(rwriter_postgres)
    """)
    run(service).assert_outcomes(passed=1)
    url = Path("url").read_text()
    assert url != rwriter_postgres
    with pytest.raises(ConnectionRefusedError):
        databases(url)


def test_the_fixtures_are_explained_where_pytest_lists_them(service: pytest.Pytester) -> None:
    result = run(service, "--fixtures")
    for fixture in ("rwriter_postgres", "rwriter_database", "rwriter_engines"):
        result.stdout.re_match_lines([rf"{fixture}\b.*rwriter[/.]pytest_plugin", "    [A-Z].*"], consecutive=True)


def test_the_plugin_module_itself_imports_no_database_code() -> None:
    program = """
import importlib.util, sys
spec = importlib.util.find_spec("rwriter")
spec = importlib.util.spec_from_file_location("plugin", spec.submodule_search_locations[0] + "/pytest_plugin.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print([name for name in ("rwriter", "sqlalchemy", "asyncpg", "alembic", "msgspec") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

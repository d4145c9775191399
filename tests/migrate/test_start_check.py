"""A writer starts on a database that is not at its release's revision."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import make_url

from rwriter import DatabaseRefused, RequestsWriter, RwriterError, SchemaOutdated, migrate
from rwriter.schema import HEAD_REVISION
from tests.support.migrations import ODD_SCHEMA, alembic, column, engine_on, execute, tables_in
from tests.support.records import record


async def test_an_empty_database_stops_the_writer_with_the_command_to_run(empty_database: str) -> None:
    async with engine_on(empty_database) as engine:
        writer = RequestsWriter(engine)
        with pytest.raises(SchemaOutdated, match=f"no revision.*{HEAD_REVISION}.*`rwriter migrate`"):
            await writer.__aenter__()


async def test_an_older_database_stops_the_writer_with_both_revisions(rwriter_database: str) -> None:
    await execute(rwriter_database, "UPDATE rwriter_alembic_version SET version_num = 'rwriter_0000'")
    async with engine_on(rwriter_database) as engine:
        writer = RequestsWriter(engine)
        with pytest.raises(SchemaOutdated, match=f"rwriter_0000.*{HEAD_REVISION}.*`rwriter migrate`"):
            await writer.__aenter__()


async def test_tables_in_another_schema_do_not_count(rwriter_database: str) -> None:
    async with engine_on(rwriter_database) as engine:
        writer = RequestsWriter(engine.execution_options(schema_translate_map={None: ODD_SCHEMA}))
        with pytest.raises(SchemaOutdated, match="`rwriter migrate`"):
            await writer.__aenter__()


@pytest.mark.parametrize("revision", [HEAD_REVISION, "rwriter_0099"])
async def test_a_database_at_head_or_of_a_later_release_is_written_to(rwriter_database: str, revision: str) -> None:
    await execute(rwriter_database, f"UPDATE rwriter_alembic_version SET version_num = '{revision}'")
    given = record()
    async with engine_on(rwriter_database) as engine, RequestsWriter(engine) as writer:
        await writer.send(given, wait="committed")
    assert await column(rwriter_database, "SELECT id FROM requests") == [given.request_id]


@asynccontextmanager
async def role_of(url: str) -> AsyncIterator[tuple[str, str]]:
    """A role that may log in, and the URL that does so."""
    name = f"role_of_{make_url(url).database}"
    await execute(url, f'CREATE ROLE "{name}" LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO "{name}"')
    try:
        yield name, make_url(url).set(username=name).render_as_string(hide_password=False)
    finally:
        await execute(url, f'DROP OWNED BY "{name}" CASCADE; DROP ROLE "{name}"')


async def test_a_revision_stamped_on_an_empty_database_does_not_pass(empty_database: str) -> None:
    alembic("stamp", "head", url=empty_database)
    async with engine_on(empty_database) as engine:
        with pytest.raises(SchemaOutdated, match=r"no table requests .*delete the row of rwriter_alembic_version"):
            await RequestsWriter(engine).__aenter__()
    with pytest.raises(migrate.SchemaDrift, match="missing table requests"):
        await migrate.check(empty_database)


async def test_a_table_of_the_services_before_ours_in_the_search_path_is_named(rwriter_database: str) -> None:
    async with role_of(rwriter_database) as (role, url):
        await execute(
            rwriter_database,
            f"""
            CREATE SCHEMA app AUTHORIZATION "{role}"; CREATE TABLE app.requests (id int PRIMARY KEY, payload text);
            ALTER ROLE "{role}" SET search_path = app, public
            """,
        )
        async with engine_on(url) as engine:
            with pytest.raises(SchemaOutdated, match=r"requests is app\.requests .*lacks batch_id.*RWRITER_SCHEMA"):
                await RequestsWriter(engine).__aenter__()
        assert await column(rwriter_database, "SELECT count(*) FROM app.requests") == [0]


@pytest.mark.parametrize(
    ("privilege", "table"),
    [
        ("SELECT", "rwriter_alembic_version"),
        ("INSERT", "requests"),
        ("UPDATE", "requests"),
        ("INSERT", "request_templates"),
        ("SELECT", "erasures"),
        ("INSERT", "ledger"),
    ],
)
async def test_a_missing_privilege_is_named_with_the_words_that_grant_it(
    rwriter_database: str, privilege: str, table: str
) -> None:
    async with role_of(rwriter_database) as (role, url):
        await execute(rwriter_database, f'REVOKE {privilege} ON {table} FROM "{role}"')
        async with engine_on(url) as engine:
            with pytest.raises(DatabaseRefused, match=f'GRANT {privilege} ON public.{table} TO "{role}"') as caught:
                await RequestsWriter(engine).__aenter__()
        # the words are SQL that mends it
        await execute(rwriter_database, str(caught.value).rpartition(" run ")[2])
        async with engine_on(url) as engine, RequestsWriter(engine) as writer:
            await writer.send(record(), wait="committed")


async def test_a_database_that_cannot_hold_every_text_is_refused(empty_database: str) -> None:
    name = f"{make_url(empty_database).database}_latin"
    url = make_url(empty_database).set(database=name).render_as_string(hide_password=False)
    await execute(empty_database, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        for refused in (migrate.upgrade(url), migrate.check(url)):
            with pytest.raises(RwriterError, match="LATIN1, not UTF8"):
                await refused
        async with engine_on(url) as engine:
            with pytest.raises(DatabaseRefused, match="LATIN1, not UTF8"):
                await RequestsWriter(engine).__aenter__()
        assert await tables_in(url) == []
    finally:
        await execute(empty_database, f"DROP DATABASE {name} WITH (FORCE)")

"""``--adopt``: tables that the daemon made get what they lack, keep what they have, and are spared by a downgrade."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from rwriter import RequestStore, RwriterError, SchemaOutdated, migrate
from rwriter.migrate import SchemaDrift
from rwriter.schema import HEAD_REVISION
from tests.support.daemon import DAEMON_TABLES
from tests.support.migrations import (
    DEADLINE,
    ODD_SCHEMA,
    alembic,
    column,
    connected,
    engine_on,
    execute,
    revisions,
    rows,
    rwriter,
    tables_in,
)
from tests.support.records import record

MADE: Final = {
    "create table dead_letters",
    "create table erasures",
    "create table ledger",
    "add to requests: input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, first_token_at",
    "add to request_templates: metadata",
    "build index ix_request_templates_custom_id on request_templates",
    "build index ix_dead_letters_created_by on dead_letters",
    "build index ix_requests_active on requests",
    "build index ix_requests_created_at_id on requests",
    "build index ix_requests_custom_id on requests",
    "build index ix_requests_failed on requests",
    f"record {HEAD_REVISION} in rwriter_alembic_version",
}
"""What the daemon's tables lack: its own indexes do for those by owner and by template."""

# of tables, columns, indexes, constraints, triggers, views and comments, with no word of their numbers
CATALOGUE: Final = """
    SELECT 'table', c.relname, c.relkind::text, c.reloptions::text, obj_description(c.oid, 'pg_class')
    FROM pg_class c WHERE relnamespace = $1::text::regnamespace
    UNION ALL SELECT 'column', c.relname, attname, format_type(atttypid, atttypmod) || attnotnull
        || coalesce(pg_get_expr(adbin, adrelid), ''), col_description(c.oid, attnum)
    FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = $1::text::regnamespace AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated::text
    FROM pg_constraint WHERE connamespace = $1::text::regnamespace
    UNION ALL SELECT 'index', tablename, indexname, indexdef, '' FROM pg_indexes WHERE schemaname = $1::text
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(t.oid), ''
    FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
    WHERE relnamespace = $1::text::regnamespace AND NOT tgisinternal
    ORDER BY 1, 2, 3, 4
"""
VERSION_TABLE: Final = "rwriter_alembic_version"


@pytest.fixture
async def daemon_database(empty_database: str) -> str:
    """URL of a database as the daemon's own migrations leave it, with a batch in it."""
    await execute(empty_database, DAEMON_TABLES)
    return empty_database


async def catalogue(url: str, schema: str = "public") -> list[tuple[Any, ...]]:
    found = await rows(url, CATALOGUE, schema)
    return [row for row in found if not row[1].startswith(VERSION_TABLE)]


async def test_a_dry_run_names_each_thing_and_does_none(daemon_database: str) -> None:
    before = await catalogue(daemon_database)
    done = rwriter("migrate", "--adopt", "--dry-run", url=daemon_database)
    assert set(done.stdout.splitlines()) == MADE
    assert await catalogue(daemon_database) == before
    assert VERSION_TABLE not in await tables_in(daemon_database)


async def test_adopted_tables_pass_every_check_and_keep_all_they_had(daemon_database: str) -> None:
    before = await catalogue(daemon_database)
    batch = await rows(daemon_database, "SELECT id, batch_id, template_id, updated_at, xmin::text FROM requests")
    done = rwriter("migrate", "--adopt", url=daemon_database)
    assert set(done.stdout.splitlines()) > MADE
    assert await revisions(daemon_database) == [HEAD_REVISION]

    rwriter("check", url=daemon_database)
    assert alembic("check", url=daemon_database).stdout == "No new upgrade operations detected.\n"
    now = await catalogue(daemon_database)
    assert [row for row in now if row in before] == before
    assert (
        await rows(daemon_database, "SELECT id, batch_id, template_id, updated_at, xmin::text FROM requests") == batch
    )
    indexes = await column(daemon_database, "SELECT indexname::text FROM pg_indexes WHERE tablename = 'requests'")
    assert {"ix_requests_template_id", "ix_requests_created_by_created_at_id"}.isdisjoint(indexes)

    given = record(custom_id="chatcmpl-7", input_tokens=3)
    async with engine_on(daemon_database) as engine:
        store = RequestStore(engine)
        await store.check_schema()
        await store.persist_completed([given])
        detail = await store.get_request(given.request_id)
    assert detail is not None
    assert (detail.status, detail.input_tokens) == ("completed", 3)
    assert await column(daemon_database, "SELECT request_id FROM dead_letters") == []


async def test_adopting_again_changes_nothing(daemon_database: str) -> None:
    await migrate.adopt(daemon_database)
    before = await catalogue(daemon_database)
    assert await migrate.adopt(daemon_database) == []
    await migrate.upgrade(daemon_database)
    assert await catalogue(daemon_database) == before


async def test_a_downgrade_drops_what_adoption_made_and_nothing_else(daemon_database: str) -> None:
    before = await catalogue(daemon_database)
    await migrate.adopt(daemon_database)
    await migrate.downgrade(daemon_database, "rwriter_0001")
    assert "erasures" not in await tables_in(daemon_database)
    assert "dead_letters" in await tables_in(daemon_database)
    await migrate.downgrade(daemon_database)
    assert await catalogue(daemon_database) == before
    assert await column(daemon_database, "SELECT count(*) FROM requests") == [1]
    # and back again
    assert set(await migrate.adopt(daemon_database)) == MADE
    await migrate.check(daemon_database)


async def test_a_column_that_the_daemon_has_of_the_same_name_is_left_to_it(daemon_database: str) -> None:
    await execute(daemon_database, "ALTER TABLE request_templates ADD COLUMN metadata jsonb")
    assert "add to request_templates: metadata" not in await migrate.adopt(daemon_database)
    await migrate.downgrade(daemon_database)
    names = await column(
        daemon_database, "SELECT attname::text FROM pg_attribute WHERE attrelid = 'request_templates'::regclass"
    )
    assert "metadata" in names


async def test_what_cannot_be_added_is_listed_and_nothing_is_changed(daemon_database: str) -> None:
    await execute(
        daemon_database,
        """
        DROP VIEW open_requests;
        ALTER TABLE requests DROP COLUMN model, DROP CONSTRAINT requests_service_tier_check,
            ALTER COLUMN service_tier TYPE varchar(20), ALTER COLUMN updated_at DROP NOT NULL;
        ALTER TABLE request_templates ADD COLUMN region text NOT NULL DEFAULT 'eu';
        ALTER TABLE request_templates ALTER COLUMN region DROP DEFAULT;
        ALTER TABLE steps DROP CONSTRAINT steps_request_id_fkey;
        ALTER TABLE requests DROP CONSTRAINT requests_pkey
        """,
    )
    before = await catalogue(daemon_database)
    with pytest.raises(SchemaDrift) as caught:
        await migrate.adopt(daemon_database)
    assert str(caught.value).splitlines() == [
        "these tables cannot be adopted, and nothing was changed:",
        "  missing column model of requests",
        "  requests.service_tier: type is VARCHAR(20), not TEXT",
        "  requests.updated_at: nullable is True, not False",
        "  request_templates.region: NOT NULL without a default, so that no record of rwriter's can be stored",
        "  requests: the primary key is not id",
    ]
    assert await catalogue(daemon_database) == before
    assert VERSION_TABLE not in await tables_in(daemon_database)


async def test_a_database_without_the_tables_is_refused(empty_database: str) -> None:
    done = rwriter("migrate", "--adopt", url=empty_database, code=1)
    assert "missing table requests" in done.stderr
    assert "Traceback" not in done.stderr
    assert await tables_in(empty_database) == []


async def test_tables_of_rwriters_own_are_upgraded_as_ever(empty_database: str) -> None:
    await migrate.upgrade(empty_database, "rwriter_0001")
    assert await migrate.adopt(empty_database) == []
    assert await revisions(empty_database) == [HEAD_REVISION]
    await migrate.downgrade(empty_database)
    assert await tables_in(empty_database) == [VERSION_TABLE]


async def test_it_adopts_in_a_schema(empty_database: str) -> None:
    await execute(empty_database, f'CREATE SCHEMA "{ODD_SCHEMA}"; SET search_path TO "{ODD_SCHEMA}"; {DAEMON_TABLES}')
    assert set(await migrate.adopt(empty_database, schema=ODD_SCHEMA)) == MADE
    await migrate.check(empty_database, schema=ODD_SCHEMA)
    assert await tables_in(empty_database) == []
    await migrate.downgrade(empty_database, schema=ODD_SCHEMA)
    assert {"requests", "request_templates"} <= set(await tables_in(empty_database, ODD_SCHEMA))


async def test_many_at_once_adopt_once(daemon_database: str) -> None:
    await asyncio.gather(*(migrate.adopt(daemon_database) for _ in range(4)))
    await migrate.check(daemon_database)


async def test_an_index_that_a_killed_process_left_invalid_is_built_again(daemon_database: str) -> None:
    # the building of an index waits for this snapshot, until it is killed
    async with connected(daemon_database) as holder, holder.transaction(isolation="repeatable_read"):
        await holder.execute("SELECT FROM files")
        adoption = asyncio.create_task(migrate.adopt(daemon_database))
        building = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND state = 'active'"
        async with asyncio.timeout(DEADLINE), connected(daemon_database) as other:
            while (pid := await other.fetchval(f"{building} AND datname = current_database()")) is None:
                assert not adoption.done(), adoption
                await asyncio.sleep(0.01)
            await other.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(Exception, match=r"terminat|closed|lost"):
            await adoption
    invalid = "SELECT relname::text FROM pg_index JOIN pg_class ON oid = indexrelid WHERE NOT indisvalid"
    (half,) = await column(daemon_database, invalid)
    assert [name for name in await migrate.adopt(daemon_database) if f" {half} " in name]
    await migrate.check(daemon_database)
    assert await column(daemon_database, invalid) == []


async def test_within_a_transaction_it_is_refused_in_words(daemon_database: str) -> None:
    before = await catalogue(daemon_database)
    config = migrate.alembic_config()
    from alembic import command

    from rwriter.migrate._adoption import adopt_with

    def work(connection: Any) -> None:
        config.attributes |= {"connection": connection, "first": adopt_with(None)}
        command.stamp(config, "head")

    async with engine_on(daemon_database) as engine, engine.connect() as connection:
        async with connection.begin():
            with pytest.raises(Exception, match="which no transaction can"):
                await connection.run_sync(work)
    assert await catalogue(daemon_database) == before


async def test_before_adoption_the_writer_says_that_the_database_is_at_no_revision(daemon_database: str) -> None:
    async with engine_on(daemon_database) as engine:
        with pytest.raises(SchemaOutdated, match="no revision"):
            await RequestStore(engine).check_schema()
    with pytest.raises(RwriterError):
        await migrate.check(daemon_database)

"""``rwriter.migrate`` from a service's own code: over its engines, its connections, inside its event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from alembic import command
from sqlalchemy import URL, Connection, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter import DbEngines, RequestStore, RwriterError, migrate
from rwriter.engines import in_schema
from rwriter.schema import HEAD_REVISION
from rwriter.testing import TestDbEngines
from tests.migration.helpers import (
    ODD_SCHEMA,
    ODDER_SCHEMA,
    TABLES,
    engine_on,
    eventually_waiting_for_lock,
    execute,
    revisions,
    tables_in,
)

SETTINGS = text("SELECT current_setting('search_path'), current_setting('lock_timeout')")


def upgrade_over(connection: Connection, schema: str | None = None, revision: str = "head") -> None:
    config = migrate.alembic_config(schema)
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def settings(connection: AsyncConnection) -> tuple[str, str]:
    row = (await connection.execute(SETTINGS)).one()
    return row[0], row[1]


async def test_in_the_callers_transaction_nothing_happens_until_it_commits(empty_database: str) -> None:
    async with engine_on(empty_database) as engine:
        async with engine.connect() as connection, connection.begin() as transaction:
            await connection.run_sync(upgrade_over)
            assert (await connection.execute(text("SELECT count(*) FROM requests"))).scalar_one() == 0
            await transaction.rollback()
        assert await tables_in(empty_database) == []

        async with engine.begin() as connection:
            await connection.run_sync(upgrade_over)
        assert await tables_in(empty_database) == TABLES


async def test_without_a_transaction_it_commits_its_own(empty_database: str) -> None:
    async with engine_on(empty_database) as engine, engine.connect() as connection:
        await connection.run_sync(upgrade_over)
        assert await tables_in(empty_database) == TABLES


@pytest.mark.parametrize("schema", [None, ODDER_SCHEMA])
async def test_the_callers_settings_are_put_back(empty_database: str, schema: str | None) -> None:
    await execute(empty_database, f'CREATE SCHEMA "{ODD_SCHEMA}"')
    mine = (f'"{ODD_SCHEMA}", public', "7s")
    async with engine_on(empty_database) as engine, engine.connect() as connection:
        await connection.exec_driver_sql(f"SET search_path = {mine[0]}")
        await connection.exec_driver_sql("SET lock_timeout = '7s'")
        await connection.commit()

        async with connection.begin():
            await connection.run_sync(upgrade_over, schema)
            assert await settings(connection) == mine
        assert await settings(connection) == mine
    assert await tables_in(empty_database, schema or ODD_SCHEMA) == TABLES


async def test_a_failed_upgrade_leaves_the_callers_settings_and_savepoint_usable(empty_database: str) -> None:
    async with engine_on(empty_database) as engine, engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE requests (mine int)")
        before = await settings(connection)
        with pytest.raises(Exception, match="already exists"):
            async with connection.begin_nested():
                await connection.run_sync(upgrade_over)
        assert await settings(connection) == before
        assert (await connection.execute(text("SELECT count(mine) FROM requests"))).scalar_one() == 0


async def test_a_connection_in_autocommit_mode_is_refused(empty_database: str) -> None:
    async with engine_on(empty_database, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        with pytest.raises(Exception, match="autocommit"):
            await connection.run_sync(upgrade_over, ODD_SCHEMA)
    assert await tables_in(empty_database) == []
    assert await tables_in(empty_database, ODD_SCHEMA) == []


@pytest.mark.parametrize("isolation_level", ["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
async def test_an_engine_of_any_isolation_level_is_upgraded_at_once_or_in_turn(
    empty_database: str, isolation_level: str
) -> None:
    async with engine_on(empty_database, isolation_level=isolation_level) as engine:
        await asyncio.gather(*(migrate.upgrade(engine) for _ in range(3)))
        await migrate.check(engine)
    assert await revisions(empty_database) == [HEAD_REVISION]


async def test_it_runs_in_a_running_loop_and_starts_none_of_its_own(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a loop inside a loop")

    monkeypatch.setattr(asyncio, "run", refuse)
    async with engine_on(empty_database) as engine, engine.begin() as connection:
        await connection.run_sync(upgrade_over)
    assert "CREATE TABLE requests" in migrate.upgrade_sql()
    assert await tables_in(empty_database) == TABLES


async def test_a_synchronous_upgrade_inside_a_running_loop_opens_its_own_connection(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWRITER_DATABASE_URL", empty_database)
    command.upgrade(migrate.alembic_config(ODD_SCHEMA), "head")
    assert await tables_in(empty_database, ODD_SCHEMA) == TABLES


async def test_an_engine_with_a_schema_of_its_own_is_migrated_there(empty_database: str) -> None:
    async with engine_on(empty_database) as engine:
        named = in_schema(engine, ODD_SCHEMA)
        await migrate.upgrade(named)
        assert await migrate.current(named) == HEAD_REVISION
        await migrate.check(named)
        assert await tables_in(empty_database, ODD_SCHEMA) == TABLES
        await migrate.downgrade(named)
        assert await migrate.current(named) is None
        # so too when the connection is all that Alembic gets to see
        async with named.begin() as connection:
            await connection.run_sync(upgrade_over)
    assert await tables_in(empty_database, ODD_SCHEMA) == TABLES
    assert await tables_in(empty_database) == []


async def test_the_schema_asked_for_goes_before_the_engines_own(empty_database: str) -> None:
    async with engine_on(empty_database) as engine:
        named = in_schema(engine, ODD_SCHEMA)
        await migrate.upgrade(named, schema=ODDER_SCHEMA)
        await migrate.check(named, schema=ODDER_SCHEMA)
        async with named.begin() as connection:
            await connection.run_sync(upgrade_over, "third")
    assert await tables_in(empty_database, ODDER_SCHEMA) == TABLES
    assert await tables_in(empty_database, "third") == TABLES
    assert await tables_in(empty_database, ODD_SCHEMA) == []


async def test_every_kind_of_target_is_taken(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: URL = make_url(empty_database)
    monkeypatch.setenv("RWRITER_DATABASE_URL", empty_database)
    async with engine_on(empty_database) as engine:
        targets = [
            empty_database,
            plain,
            plain.set(drivername="postgresql+asyncpg"),
            engine,
            DbEngines(engine),
            TestDbEngines(engine),
            None,
        ]
        for number, target in enumerate(targets):
            await migrate.upgrade(target, schema=f"number_{number}")
            assert await tables_in(empty_database, f"number_{number}") == TABLES


async def test_upgrades_of_many_schemas_at_once_in_one_process_do_not_mix(empty_database: str) -> None:
    names = [f"tenant_{number}" for number in range(4)]
    other_loop = threading.Thread(target=lambda: asyncio.run(migrate.upgrade(empty_database, schema="other_loop")))
    other_loop.start()
    await asyncio.gather(*(migrate.upgrade(empty_database, schema=name) for name in names))
    await asyncio.to_thread(other_loop.join)
    for name in (*names, "other_loop"):
        assert await tables_in(empty_database, name) == TABLES
    assert await tables_in(empty_database) == []


async def test_a_cancelled_upgrade_gives_up_its_turn_and_leaves_nothing(empty_database: str) -> None:
    async with engine_on(empty_database) as engine, engine.begin() as holder:
        await holder.exec_driver_sql("SELECT pg_advisory_xact_lock(7220514906331187201)")
        waiting = [asyncio.create_task(migrate.upgrade(engine)) for _ in range(2)]
        await eventually_waiting_for_lock(empty_database)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
    assert await tables_in(empty_database) == []
    await migrate.upgrade(empty_database)
    assert await tables_in(empty_database) == TABLES


async def test_a_revision_this_release_does_not_know_is_named(rwriter_database: str) -> None:
    with pytest.raises(RwriterError, match="rwriter_9999.*head of this release is rwriter_0001"):
        await migrate.upgrade(rwriter_database, "rwriter_9999")
    await execute(rwriter_database, "UPDATE rwriter_alembic_version SET version_num = 'rwriter_9998'")
    with pytest.raises(RwriterError, match="rwriter_9998"):
        await migrate.upgrade(rwriter_database)
    assert await revisions(rwriter_database) == ["rwriter_9998"]


async def test_a_role_that_may_not_create_schemas_upgrades_one_that_is_there(empty_database: str) -> None:
    role = f"modest_{make_url(empty_database).database}"
    await execute(empty_database, f'CREATE ROLE "{role}" LOGIN; CREATE SCHEMA theirs AUTHORIZATION "{role}"')
    try:
        async with engine_on(empty_database) as engine, engine.connect() as connection:
            await connection.exec_driver_sql(f'SET ROLE "{role}"')
            await connection.commit()
            await connection.run_sync(upgrade_over, "theirs")
            store = RequestStore(engine, schema="theirs")
            await store.check_schema()
        assert await tables_in(empty_database, "theirs") == TABLES
    finally:
        await execute(empty_database, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')

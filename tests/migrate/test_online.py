"""Upgrades beside writers: a transaction for each revision, indexes built concurrently, locks asked for again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from rwriter import migrate
from rwriter.schema import HEAD_REVISION
from tests.support.migrations import DEADLINE, column, connected, engine_on, execute, revisions, tables_in

NEXT = f"""
from alembic import op

revision, down_revision, branch_labels, depends_on = "rwriter_9999", {HEAD_REVISION!r}, None, None

def upgrade():
    op.execute("CREATE TABLE before_the_index (id int)")
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute("CREATE INDEX CONCURRENTLY ix_built_online ON requests (model)")
    op.execute("CREATE TABLE after_the_index (id int)")

def downgrade():
    raise NotImplementedError
"""

INDEX = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_built_online')"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'requests'::regclass"


@pytest.fixture
def with_index(tmp_path: Path) -> Config:
    """rwriter's migrations and one that builds an index concurrently."""
    (tmp_path / "9999_index.py").write_text(NEXT)
    config = migrate.alembic_config()
    config.set_main_option("version_locations", f"{migrate.versions_path()}{os.pathsep}{tmp_path}".replace("%", "%%"))
    return config


def upgrading(config: Config) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    return work


async def test_a_revision_may_build_an_index_concurrently(empty_database: str, with_index: Config) -> None:
    async with engine_on(empty_database) as engine, engine.connect() as connection:
        await connection.run_sync(upgrading(with_index))
    assert await column(empty_database, INDEX) == [True]
    assert await revisions(empty_database) == ["rwriter_9999"]
    assert {"before_the_index", "after_the_index"} <= set(await tables_in(empty_database))


async def test_within_the_callers_transaction_such_a_revision_is_refused_in_words(
    empty_database: str, with_index: Config
) -> None:
    async with engine_on(empty_database) as engine, engine.connect() as connection, connection.begin() as transaction:
        with pytest.raises(CommandError, match="hand over a connection that is in none"):
            await connection.run_sync(upgrading(with_index))
        await transaction.rollback()
    assert await tables_in(empty_database) == []


async def test_each_revision_is_a_transaction_of_its_own(empty_database: str) -> None:
    await execute(empty_database, "CREATE TABLE erasures (theirs int)")
    with pytest.raises(Exception, match="already exists"):
        await migrate.upgrade(empty_database)
    assert await revisions(empty_database) == ["rwriter_0001"]
    columns = await column(
        empty_database, "SELECT attname::text FROM pg_attribute WHERE attrelid = 'requests'::regclass"
    )
    assert "input_tokens" not in columns


async def test_a_failed_upgrade_gives_its_lock_and_the_sessions_settings_back(empty_database: str) -> None:
    await execute(empty_database, "CREATE TABLE requests (mine int)")
    query = text("SELECT name, setting FROM pg_settings WHERE name ~ 'timeout$|^search_path$' ORDER BY name")
    async with engine_on(empty_database) as engine, engine.connect() as connection:
        before = (await connection.execute(query)).all()
        await connection.commit()
        with pytest.raises(Exception, match="already exists"):
            await connection.run_sync(upgrading(migrate.alembic_config()))
        assert (await connection.execute(query)).all() == before
        held = await connection.execute(
            text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
        )
        assert held.scalar_one() == 0


@asynccontextmanager
async def reader_of_requests(url: str) -> AsyncIterator[None]:
    async with connected(url) as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM requests")
        yield


async def test_a_lock_not_to_be_had_is_asked_for_again_and_no_writer_queues_behind_it(empty_database: str) -> None:
    await migrate.upgrade(empty_database, "rwriter_0001")
    async with reader_of_requests(empty_database):
        upgrade = asyncio.create_task(migrate.upgrade(empty_database))
        async with asyncio.timeout(DEADLINE), connected(empty_database) as writer:
            for number in range(3):
                while not await writer.fetchval(WAITING):
                    assert not upgrade.done(), upgrade
                    await asyncio.sleep(0.01)
                # queues behind the upgrade, which gives up first: the reader is still there
                await writer.execute("INSERT INTO requests (model, created_by) VALUES ($1, 'me')", str(number))
    await asyncio.wait_for(upgrade, DEADLINE)
    assert await revisions(empty_database) == [HEAD_REVISION]
    assert await column(empty_database, "SELECT model FROM requests ORDER BY 1") == ["0", "1", "2"]


async def test_an_index_that_a_killed_upgrade_left_invalid_is_built_again(empty_database: str) -> None:
    await migrate.upgrade(empty_database, "rwriter_0001")
    # the building of the index waits for this snapshot, until it is killed
    async with connected(empty_database) as holder, holder.transaction(isolation="repeatable_read"):
        await holder.execute("SELECT FROM pg_class")
        upgrade = asyncio.create_task(migrate.upgrade(empty_database))
        building = (
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%CREATE INDEX CONCURRENTLY%' AND state = 'active' "
            "AND pid <> pg_backend_pid() AND datname = current_database() AND wait_event = 'virtualxid'"
        )
        async with asyncio.timeout(DEADLINE), connected(empty_database) as other:
            while (pid := await other.fetchval(building)) is None:
                assert not upgrade.done(), upgrade
                await asyncio.sleep(0.01)
            await other.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(Exception, match=r"terminat|closed|lost"):
            await upgrade
    invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
    assert await column(empty_database, invalid) == ["ix_request_templates_custom_id"]
    assert await revisions(empty_database) == ["rwriter_0001"]
    await migrate.upgrade(empty_database)
    assert await column(empty_database, invalid) == []
    await migrate.check(empty_database)

"""A service with an Alembic project of its own that lists rwriter's versions among its locations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rwriter import RequestStore, SchemaOutdated, migrate
from rwriter.schema import HEAD_REVISION
from tests.support.migrations import TABLES, alembic, column, engine_on, execute, revisions, tables_in
from tests.support.records import record

INI = """
[alembic]
script_location = %(here)s/alembic
version_locations = %(here)s/alembic/versions{pathsep}{versions}
path_separator = os
"""

# the env.py of Alembic's own "async" template, without its comments
ENV = """
import asyncio, os
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = create_async_engine(os.environ["SERVICE_DATABASE_URL"])
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(main())
"""

ORDERS = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "5e41ce", None, ("service",), {depends_on!r}

def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True), sa.Column("request_id", sa.Uuid))

def downgrade():
    op.drop_table("orders")
"""


def project(folder: Path, depends_on: str | None = None) -> Path:
    versions = folder / "alembic" / "versions"
    versions.mkdir(parents=True)
    ours = Path(str(migrate.alembic_config().get_main_option("script_location"))) / "versions"
    (folder / "alembic.ini").write_text(INI.format(pathsep=os.pathsep, versions=ours))
    (folder / "alembic" / "env.py").write_text(ENV)
    (versions / "5e41ce_orders.py").write_text(ORDERS.format(depends_on=depends_on))
    return folder


async def test_the_writer_and_the_commands_find_rwriters_tables_in_its_history(
    empty_database: str, tmp_path: Path
) -> None:
    service = project(tmp_path)
    url = empty_database.replace("postgresql://", "postgresql+asyncpg://", 1)
    alembic("upgrade", "heads", cwd=service, SERVICE_DATABASE_URL=url)
    ours = [table for table in TABLES if table != "rwriter_alembic_version"]
    assert await tables_in(empty_database) == sorted([*ours, "alembic_version", "orders"])

    assert await migrate.current(empty_database) == HEAD_REVISION
    await migrate.check(empty_database)
    given = record()
    async with engine_on(empty_database) as engine:
        store = RequestStore(engine)
        await store.check_schema()
        await store.persist_completed([given])
    assert await column(empty_database, "SELECT id FROM requests") == [given.request_id]

    alembic("downgrade", "rwriter@base", cwd=service, SERVICE_DATABASE_URL=url)
    assert await tables_in(empty_database) == ["alembic_version", "orders"]
    assert await revisions(empty_database, "alembic_version") == ["5e41ce"]


async def test_a_revision_of_the_services_may_depend_on_rwriters(empty_database: str, tmp_path: Path) -> None:
    service = project(tmp_path, depends_on=HEAD_REVISION)
    url = empty_database.replace("postgresql://", "postgresql+asyncpg://", 1)
    alembic("upgrade", "heads", cwd=service, SERVICE_DATABASE_URL=url)
    assert await revisions(empty_database, "alembic_version") == ["5e41ce"]
    async with engine_on(empty_database) as engine:
        await RequestStore(engine).check_schema()
    await migrate.check(empty_database)

    await execute(empty_database, "ALTER TABLE requests DROP COLUMN routed_model")
    with pytest.raises(SchemaOutdated, match="no revision of rwriter"):
        await migrate.check(empty_database)

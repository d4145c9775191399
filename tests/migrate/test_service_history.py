"""A service with an Alembic project of its own that lists rwriter's versions among its locations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rwriter import RequestStore, RwriterError, SchemaOutdated, migrate
from rwriter.schema import HEAD_REVISION
from tests.support.migrations import TABLES, alembic, column, engine_on, execute, revisions, rows, tables_in
from tests.support.records import record

INI = """
[alembic]
script_location = %(here)s/alembic
version_locations = %(here)s/alembic/versions{pathsep}{versions}
path_separator = {separator}
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


SEPARATORS = {"os": os.pathsep, "space": " ", "newline": "\n    "}


def project(folder: Path, depends_on: str | None = None, separator: str = "os") -> Path:
    versions = folder / "alembic" / "versions"
    versions.mkdir(parents=True)
    text = INI.format(pathsep=SEPARATORS[separator], separator=separator, versions=migrate.versions_path())
    (folder / "alembic.ini").write_text(text)
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
    await migrate.upgrade(empty_database)
    assert "rwriter_alembic_version" not in await tables_in(empty_database)
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
    assert await migrate.current(empty_database) == HEAD_REVISION
    await migrate.upgrade(empty_database)
    assert "rwriter_alembic_version" not in await tables_in(empty_database)

    await execute(empty_database, "ALTER TABLE requests DROP COLUMN routed_model")
    with pytest.raises(SchemaOutdated, match="no revision of rwriter"):
        await migrate.check(empty_database)


@pytest.mark.parametrize("separator", SEPARATORS)
async def test_the_folder_is_found_with_any_separator_of_paths(
    empty_database: str, tmp_path: Path, separator: str
) -> None:
    service = project(tmp_path, separator=separator)
    url = empty_database.replace("postgresql://", "postgresql+asyncpg://", 1)
    heads = alembic("heads", cwd=service, SERVICE_DATABASE_URL=url)
    assert {line.split()[0] for line in heads.stdout.splitlines()} == {"5e41ce", HEAD_REVISION}


async def test_a_merged_history_says_the_same_to_every_command(empty_database: str, tmp_path: Path) -> None:
    service = project(tmp_path)
    url = empty_database.replace("postgresql://", "postgresql+asyncpg://", 1)
    # what `alembic merge heads` writes
    (service / "alembic" / "versions" / "a11_one.py").write_text(
        f'revision, down_revision, branch_labels, depends_on = "a11", ("5e41ce", {HEAD_REVISION!r}), None, None\n'
        "def upgrade(): pass\ndef downgrade(): pass\n"
    )
    alembic("upgrade", "head", cwd=service, SERVICE_DATABASE_URL=url)
    before = await rows(empty_database, "SELECT * FROM alembic_version")
    assert await migrate.current(empty_database) == HEAD_REVISION
    await migrate.check(empty_database)
    await migrate.upgrade(empty_database)
    assert await rows(empty_database, "SELECT * FROM alembic_version") == before
    assert "rwriter_alembic_version" not in await tables_in(empty_database)


async def test_a_history_that_is_behind_is_not_overtaken(empty_database: str, tmp_path: Path) -> None:
    service = project(tmp_path)
    url = empty_database.replace("postgresql://", "postgresql+asyncpg://", 1)
    alembic("upgrade", "rwriter_0001", cwd=service, SERVICE_DATABASE_URL=url)
    with pytest.raises(RwriterError, match=r"is at rwriter_0001: run its `alembic upgrade heads`"):
        await migrate.upgrade(empty_database)
    assert await revisions(empty_database, "alembic_version") == ["rwriter_0001"]


AUTOGENERATE = ENV.replace(
    "context.configure(connection=connection)",
    "context.configure(connection=connection, target_metadata=sa.MetaData(), include_schemas=True, "
    "include_name=rwriter.migrate.include_name)",
).replace("import asyncio, os", "import asyncio, os, rwriter.migrate, sqlalchemy as sa")


async def test_autogenerate_proposes_nothing_about_rwriters_tables_in_any_schema(
    empty_database: str, tmp_path: Path
) -> None:
    await migrate.upgrade(empty_database)
    await migrate.upgrade(empty_database, schema="elsewhere")
    service = project(tmp_path)
    (service / "alembic" / "env.py").write_text(AUTOGENERATE)
    (service / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/alembic\n")
    (service / "alembic" / "versions" / "5e41ce_orders.py").unlink()
    url = empty_database.replace("postgresql://", "postgresql+asyncpg://", 1)
    assert "No new upgrade operations" in alembic("check", cwd=service, SERVICE_DATABASE_URL=url).stdout
    # a table of the service's own is still seen
    await execute(empty_database, "CREATE TABLE elsewhere.orders (id int)")
    seen = alembic("check", cwd=service, code=255, SERVICE_DATABASE_URL=url)
    assert "remove_table" in seen.stdout + seen.stderr
    assert "requests" not in seen.stdout + seen.stderr


def test_the_name_filter_is_composed_with_a_services_own() -> None:
    parents = {"schema_name": "app", "table_name": None}
    for table in TABLES:
        assert not migrate.include_name(table, "table", parents)
    assert migrate.include_name("orders", "table", parents)
    assert migrate.include_name("requests", "schema", {})
    assert migrate.include_name(None, "schema", {})

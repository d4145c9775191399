"""The suite's own databases: lent again with empty tables, unless a test left more than rows behind."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.support.databases import CleanDatabases

ROW = "INSERT INTO erasures (owner_digest, erased_at) VALUES ('a', now())"


def execute(url: str, statement: str) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(main())


def count(url: str) -> int:
    async def main() -> int:
        connection = await asyncpg.connect(url)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM erasures"))
        finally:
            await connection.close()

    return asyncio.run(main())


def test_a_database_with_rows_is_emptied_and_lent_again(clean_databases: CleanDatabases) -> None:
    with clean_databases.lent() as first:
        execute(first, ROW)
    with clean_databases.lent() as second:
        assert second == first
        assert count(second) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more ()",
        "ALTER TABLE requests ADD COLUMN more text",
        "DROP INDEX ix_requests_active",
        f"{ROW}; ANALYZE erasures",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "UPDATE rwriter_alembic_version SET version_num = 'another'",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
    ],
)
def test_a_database_that_was_changed_otherwise_is_not_lent_again(
    clean_databases: CleanDatabases, statement: str
) -> None:
    with clean_databases.lent() as changed:
        execute(changed, statement)
    with clean_databases.lent() as next_:
        assert next_ != changed
        assert count(next_) == 0


def test_a_database_in_which_somebody_still_is_is_not_lent_again(clean_databases: CleanDatabases) -> None:
    with asyncio.Runner() as runner:
        with clean_databases.lent() as url:
            staying = runner.run(asyncpg.connect(url))
        staying.terminate()
    with clean_databases.lent() as next_:
        assert next_ != url

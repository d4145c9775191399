"""``alembic`` itself, in a checkout: every command an operator uses, in processes of their own."""

from __future__ import annotations

import asyncio
import sys

import pytest

from rwriter import migrate
from rwriter.schema import HEAD_REVISION
from tests.support.migrations import (
    DEADLINE,
    ODD_SCHEMA,
    ODDER_SCHEMA,
    ROOT,
    TABLES,
    alembic,
    column,
    connected,
    environment,
    eventually_waiting_for_turn,
    execute,
    revisions,
    rows,
    tables_in,
)

FUNCTIONS = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"

# what another upgrade holds while it runs; see ADVISORY_LOCK in env.py
HOLD_THE_LOCK = "SELECT pg_advisory_xact_lock(7220514906331187201)"


async def test_up_and_down_and_up_again_leaves_nothing_behind_and_nothing_out(empty_database: str) -> None:
    first = alembic("upgrade", "head", url=empty_database)
    assert await tables_in(empty_database) == TABLES
    current = alembic("current", url=empty_database)
    check = alembic("check", url=empty_database)
    alembic("downgrade", "base", url=empty_database)
    assert await tables_in(empty_database) == ["rwriter_alembic_version"]
    assert await column(empty_database, FUNCTIONS) == []
    await migrate.upgrade(empty_database)

    assert f"-> {HEAD_REVISION}" in first.stderr
    assert current.stdout == f"{HEAD_REVISION} (head)\n"
    assert check.stdout == "No new upgrade operations detected.\n"
    assert await tables_in(empty_database) == TABLES
    assert await revisions(empty_database) == [HEAD_REVISION]


async def test_check_refuses_an_empty_database_and_leaves_it_empty(empty_database: str) -> None:
    done = alembic("-x", "schema=unheard_of", "check", url=empty_database, code=255)
    assert "not up to date" in done.stdout + done.stderr
    assert await column(empty_database, "SELECT 1 FROM pg_namespace WHERE nspname = 'unheard_of'") == []
    assert await tables_in(empty_database) == []


async def test_the_schema_of_the_command_line_goes_before_that_of_the_environment(empty_database: str) -> None:
    alembic("-x", f"schema={ODD_SCHEMA}", "upgrade", "head", url=empty_database, RWRITER_SCHEMA="not_this")
    alembic("-x", f"schema={ODD_SCHEMA}", "check", url=empty_database)
    assert await tables_in(empty_database, ODD_SCHEMA) == TABLES
    assert await column(empty_database, "SELECT 1 FROM pg_namespace WHERE nspname = 'not_this'") == []
    assert await tables_in(empty_database) == []


async def test_the_schema_may_come_from_the_environment(empty_database: str) -> None:
    alembic("upgrade", "head", url=empty_database, RWRITER_SCHEMA=ODDER_SCHEMA)
    assert await tables_in(empty_database, ODDER_SCHEMA) == TABLES
    await migrate.check(empty_database, schema=ODDER_SCHEMA)
    await migrate.downgrade(empty_database, schema=ODDER_SCHEMA)
    assert await tables_in(empty_database, ODDER_SCHEMA) == ["rwriter_alembic_version"]


async def test_a_service_keeps_its_own_history(empty_database: str) -> None:
    await execute(
        empty_database,
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY); CREATE TABLE orders (id int);"
        "INSERT INTO alembic_version VALUES ('f00ba4')",
    )
    alembic("upgrade", "head", url=empty_database)
    alembic("check", url=empty_database)
    assert await revisions(empty_database, "alembic_version") == ["f00ba4"]
    await migrate.downgrade(empty_database)
    assert await revisions(empty_database, "alembic_version") == ["f00ba4"]
    assert await tables_in(empty_database) == ["alembic_version", "orders", "rwriter_alembic_version"]


async def test_ten_upgrades_at_once_all_succeed_and_one_of_them_does_it(empty_database: str) -> None:
    # released together, so that they meet whatever the machine's speed
    async with connected(empty_database) as holder:
        async with holder.transaction():
            await holder.execute(HOLD_THE_LOCK)
            processes = [
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "alembic", "upgrade", "head",
                    env=environment(empty_database), cwd=ROOT, stderr=asyncio.subprocess.PIPE,
                )
                for _ in range(10)
            ]  # fmt: skip
            await eventually_waiting_for_turn(empty_database, sessions=10)
        async with asyncio.timeout(DEADLINE):
            logs = [(await process.communicate())[1].decode() for process in processes]

    assert [process.returncode for process in processes] == [0] * 10, logs
    assert sum(f"-> {HEAD_REVISION}" in log for log in logs) == 1
    assert await revisions(empty_database) == [HEAD_REVISION]


async def test_the_offline_scripts_build_the_same_and_take_it_down_again(empty_database: str) -> None:
    asked = ("-x", f"schema={ODDER_SCHEMA}")
    await execute(empty_database, alembic(*asked, "upgrade", "head", "--sql").stdout)
    assert await tables_in(empty_database, ODDER_SCHEMA) == TABLES
    assert await migrate.current(empty_database, schema=ODDER_SCHEMA) == HEAD_REVISION
    await migrate.check(empty_database, schema=ODDER_SCHEMA)

    await execute(empty_database, alembic(*asked, "downgrade", f"{HEAD_REVISION}:base", "--sql").stdout)
    assert await tables_in(empty_database, ODDER_SCHEMA) == ["rwriter_alembic_version"]
    assert await tables_in(empty_database) == []


async def test_the_offline_script_waits_for_a_running_upgrade(empty_database: str) -> None:
    script = migrate.upgrade_sql()
    async with connected(empty_database) as holder:
        async with holder.transaction():
            await holder.execute(HOLD_THE_LOCK)
            running = asyncio.create_task(execute(empty_database, script))
            await eventually_waiting_for_turn(empty_database)
        await asyncio.wait_for(running, DEADLINE)
    assert await tables_in(empty_database) == TABLES


@pytest.mark.parametrize("offline", [False, True])
async def test_a_table_lock_is_waited_for_briefly_and_the_roles_own_time_outs_are_off(
    empty_database: str, *, offline: bool
) -> None:
    await execute(
        empty_database,
        """
        CREATE TABLE seen (lock_timeout text, statement_timeout text, idle_timeout text);
        CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.seen VALUES (current_setting('lock_timeout'), current_setting('statement_timeout'),
            current_setting('idle_in_transaction_session_timeout')); END $$;
        CREATE EVENT TRIGGER look ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE')
            EXECUTE FUNCTION look();
        DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET statement_timeout = 50000', current_database());
            EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = 50000', current_database());
        END $$;
        """,
    )
    if offline:
        await execute(empty_database, migrate.upgrade_sql())
    else:
        await migrate.upgrade(empty_database)
    assert await rows(empty_database, "SELECT DISTINCT * FROM seen") == [("500ms", "0", "0")]


async def test_no_name_of_a_schema_ends_the_scripts_quotes(empty_database: str) -> None:
    for tag in ("rwriter", "rwriter_", ""):
        name = f"x${tag}$; CREATE TABLE public.theirs (); --"
        await execute(empty_database, migrate.upgrade_sql(schema=name))
        assert await tables_in(empty_database, name) == TABLES
    assert await tables_in(empty_database) == []


def test_a_missing_url_is_named_without_a_traceback() -> None:
    done = alembic("upgrade", "head", code=255)
    assert "RWRITER_DATABASE_URL" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr

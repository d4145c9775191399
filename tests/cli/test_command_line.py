"""``rwriter migrate``, ``current``, ``check``, ``demo``: what they do, and what they say when they cannot."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest
from sqlalchemy import make_url

from rwriter.schema import HEAD_REVISION
from tests.cli.conftest import CommandLine
from tests.support.migrations import (
    ODD_SCHEMA,
    ODDER_SCHEMA,
    TABLES,
    execute,
    revisions,
    rwriter,
    tables_in,
)

HIDDEN = "hunter2"


async def test_a_deployment_migrates_and_checks_with_the_url_in_the_environment(empty_database: str) -> None:
    before = rwriter("check", url=empty_database, code=1)
    migrated = rwriter("migrate", url=empty_database)
    checked = rwriter("check", url=empty_database)

    assert before.stdout == ""
    assert "no revision of rwriter" in before.stderr
    assert "`rwriter migrate`" in before.stderr
    assert f"-> {HEAD_REVISION}" in migrated.stderr
    assert migrated.stdout == f"{HEAD_REVISION} (head)\n"
    assert (checked.stdout, checked.stderr) == ("the tables are what this release needs\n", "")
    assert await tables_in(empty_database) == TABLES


async def test_the_option_goes_before_the_environment_for_url_and_schema(
    empty_database: str, rwriter_database: str, command: CommandLine
) -> None:
    done = await command(
        "current", "--database-url", rwriter_database, RWRITER_DATABASE_URL=empty_database, RWRITER_SCHEMA="",
    )  # fmt: skip
    assert done.stdout == f"{HEAD_REVISION} (head)\n"
    elsewhere = await command("current", RWRITER_DATABASE_URL=rwriter_database, RWRITER_SCHEMA="elsewhere")
    assert elsewhere.stdout == "no revision of rwriter: run `rwriter migrate`\n"
    here = await command(
        "current", "--schema", "public", RWRITER_DATABASE_URL=rwriter_database, RWRITER_SCHEMA="elsewhere"
    )
    assert here.stdout == f"{HEAD_REVISION} (head)\n"


@pytest.mark.parametrize("schema", [ODD_SCHEMA, ODDER_SCHEMA])
async def test_every_command_takes_a_schema(empty_database: str, command: CommandLine, schema: str) -> None:
    options = ("--schema", schema, "--database-url", empty_database)
    assert (await command("check", *options)).code == 1
    assert (await command("migrate", *options)).stdout == f"{HEAD_REVISION} (head)\n"
    assert (await command("migrate", *options)).code == 0
    assert (await command("current", *options)).stdout == f"{HEAD_REVISION} (head)\n"
    assert (await command("check", *options)).code == 0
    assert (await command("current", "--database-url", empty_database)).stdout.startswith("no revision")


async def test_a_schema_may_have_the_longest_of_names_and_no_longer_one(
    empty_database: str, command: CommandLine
) -> None:
    options = ("--schema", "s" * 63, "--database-url", empty_database)
    assert (await command("migrate", *options)).code == 0
    assert (await command("check", *options)).code == 0
    refused = await command("migrate", "--schema", "s" * 64, "--database-url", empty_database)
    assert refused.code == 1
    assert "63 characters" in refused.stderr


async def test_offline_sql_is_printed_without_a_database_and_runs_on_one(
    empty_database: str, command: CommandLine
) -> None:
    plain = await command("migrate", "--sql")
    named = await command("migrate", "--sql", "--schema", ODD_SCHEMA)
    assert plain.code == named.code == 0
    await execute(empty_database, plain.stdout)
    await execute(empty_database, named.stdout)
    assert await tables_in(empty_database) == await tables_in(empty_database, ODD_SCHEMA) == TABLES
    assert (await command("check", "--database-url", empty_database)).code == 0
    assert (await command("check", "--schema", ODD_SCHEMA, "--database-url", empty_database)).code == 0


async def test_a_database_of_a_later_release_passes_the_check_and_is_not_migrated(
    rwriter_database: str, command: CommandLine
) -> None:
    await execute(rwriter_database, "UPDATE rwriter_alembic_version SET version_num = 'rwriter_0099'")
    url = {"RWRITER_DATABASE_URL": rwriter_database}
    assert (await command("current", **url)).stdout == f"rwriter_0099 (the head of this release is {HEAD_REVISION})\n"
    assert (await command("check", **url)).code == 0
    refused = await command("migrate", **url)
    assert refused.code == 1
    assert "rwriter_0099" in refused.stderr
    assert await revisions(rwriter_database) == ["rwriter_0099"]


async def test_check_fails_with_what_drifted(rwriter_database: str, command: CommandLine) -> None:
    await execute(rwriter_database, "DROP INDEX ix_requests_custom_id")
    done = await command("check", "--database-url", rwriter_database)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "rwriter: the tables are not what this release needs:",
        "  missing index ix_requests_custom_id of requests",
    ]


async def test_tables_somebody_else_made_are_not_overwritten(empty_database: str, command: CommandLine) -> None:
    await execute(empty_database, "CREATE TABLE requests (mine int)")
    done = await command("migrate", "--database-url", empty_database)
    assert done.code == 1
    assert 'relation "requests" already exists' in done.stderr
    assert "--schema" in done.stderr
    assert await tables_in(empty_database) == ["requests"]


@pytest.mark.parametrize("name", ["migrate", "current", "check"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://me:{HIDDEN}@127.0.0.1:1/db", "cannot reach the database, ConnectionRefusedError"),
        (f"postgresql://me:{HIDDEN}@/db?host=/no/such/folder", "cannot reach the database"),
        (f"postgresql://me:{HIDDEN}/db", "cannot use this database URL"),
        (f"postgresql://me:{HIDDEN}@localhost:5432,localhost:{HIDDEN}/db", "cannot use this database URL"),
        (f"mysql://me:{HIDDEN}@localhost/db", "cannot use this database URL"),
        (f"{HIDDEN}", "cannot use this database URL"),
        (f"postgresql://me:{HIDDEN}@localhost/db?nonsense=1", "nonsense"),
        ("", "RWRITER_DATABASE_URL"),
    ],
)
async def test_a_database_that_cannot_be_used_costs_one_line(
    command: CommandLine, name: str, url: str, said: str
) -> None:
    done = await command(name, RWRITER_DATABASE_URL=url)
    (line,) = done.stderr.splitlines()
    assert line.startswith("rwriter: ")
    assert said in line
    assert HIDDEN not in line
    assert (done.code, done.stdout) == (1, "")


async def test_the_servers_own_reasons_are_passed_on_with_what_to_do(
    rwriter_postgres: str, command: CommandLine
) -> None:
    url = make_url(rwriter_postgres).set(database="no_such_database").render_as_string(hide_password=False)
    done = await command("migrate", "--database-url", url)
    assert done.code == 1
    assert 'database "no_such_database" does not exist: create the database' in done.stderr

    url = make_url(rwriter_postgres).set(username="no_such_role").render_as_string(hide_password=False)
    done = await command("check", "--database-url", url)
    assert done.code == 1
    assert "no_such_role" in done.stderr

    done = await command("migrate", "--schema", "pg_mine", "--database-url", rwriter_postgres)
    assert done.code == 1
    assert 'unacceptable schema name "pg_mine": choose another --schema' in done.stderr


async def test_a_role_without_the_privilege_is_told_so(empty_database: str, command: CommandLine) -> None:
    role = f"modest_{make_url(empty_database).database}"
    url = make_url(empty_database).set(username=role, password=HIDDEN).render_as_string(hide_password=False)
    await execute(
        empty_database,
        f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{HIDDEN}'; REVOKE CREATE ON SCHEMA public FROM public",
    )
    try:
        done = await command("migrate", "--database-url", url)
    finally:
        await execute(empty_database, f'DROP ROLE "{role}"')
    assert done.code == 1
    assert "permission denied for schema public: connect as the owner" in done.stderr
    assert HIDDEN not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("migrate", "head", "another"),
        ("check", "--bogus"),
        ("check", f"postgresql://me:{HIDDEN}@localhost/db"),
        ("migrate", f"postgresql://me:{HIDDEN}@localhost/db"),
        ("migrate", "--databse-url", f"postgresql://me:{HIDDEN}@localhost/db"),
        ("migrate", "--schema"),
        (),
    ],
)
async def test_a_command_that_makes_no_sense_ends_with_two_and_a_hint(
    command: CommandLine, arguments: tuple[str, ...]
) -> None:
    done = await command(*arguments)
    assert done.code == 2
    assert "Error: " in done.stderr or "rwriter" in done.stderr
    assert HIDDEN not in done.stderr + done.stdout


async def test_a_revision_this_release_does_not_know_is_named(rwriter_database: str, command: CommandLine) -> None:
    done = await command("migrate", "rwriter_9999", "--database-url", rwriter_database)
    assert done.code == 1
    assert done.stderr.splitlines()[-1].startswith("rwriter: Can't locate revision identified by 'rwriter_9999'")


async def test_the_version_is_that_of_the_package(command: CommandLine) -> None:
    assert (await command("--version")).stdout == f"rwriter {importlib.metadata.version('rwriter')}\n"


@pytest.mark.parametrize(
    ("arguments", "handed_over"),
    [
        ((), {"database_url": None, "schema": None, "stop": False}),
        (("--stop",), {"database_url": None, "schema": None, "stop": True}),
        (
            ("--database-url", "postgresql://mine/db", "--schema", "s"),
            {"database_url": "postgresql://mine/db", "schema": "s", "stop": False},
        ),
    ],
)
async def test_the_demo_writes_only_where_it_is_told_to(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], handed_over: dict[str, Any]
) -> None:
    calls = []

    def main(**options: Any) -> int:
        calls.append(options)
        return 3

    monkeypatch.setattr("rwriter.demo.main", main)
    done = await command("demo", *arguments, RWRITER_DATABASE_URL="postgresql://production/db", RWRITER_SCHEMA="theirs")
    assert done.code == 3
    assert calls == [handed_over]

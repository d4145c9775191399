"""``rwriter doctor`` says of each thing that a service needs whether it is there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from rwriter.schema import HEAD_REVISION
from tests.cli.conftest import CommandLine
from tests.support.migrations import execute

PEPPER = "0123456789abcdef"
HIDDEN = "hunter2"


async def examine(command: CommandLine, *arguments: str, **variables: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code and, by check, status and message. Lines and JSON say the same."""
    as_json = await command("doctor", *arguments, "--json", **variables)
    lines = await command("doctor", *arguments, **variables)
    found = {row["check"]: (row["status"], row["message"]) for row in json.loads(as_json.stdout)}
    assert lines.code == as_json.code
    assert [line.split("  ")[0].strip() for line in lines.stdout.splitlines()] == [
        row["status"] for row in json.loads(as_json.stdout)
    ]
    return as_json.code, found


@pytest.mark.both_schemas
async def test_a_sound_installation_is_all_ok(
    database: str, schema: str | None, partitioned: str | None, command: CommandLine, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    options = ("--database-url", database, "--spool", str(tmp_path), *(() if schema is None else ("--schema", schema)))
    code, found = await examine(command, *options, RWRITER_KEY_PEPPER=PEPPER)
    assert code == 0, found
    assert list(found) == [
        "database", "writable", "server", "encoding", "lz4", "server log", "clock", "pooler", "time-outs",
        "connections", "replicas", "schema", "privileges", "autovacuum", "dead rows", "row security", "indexes",
        *(["partitions"] if partitioned else []), "sizes",
        "stale requests", "dead letters", "pepper", "spool",
    ]  # fmt: skip
    # how much room the disk has, and how the server was built, is not ours
    assert {check for check, (status, _) in found.items() if status != "ok"} <= {"lz4", "spool"}
    assert found["schema"][1] == f"{HEAD_REVISION} (head)"
    assert PEPPER not in str(found)


async def test_without_a_pepper_it_warns(rwriter_database: str, command: CommandLine) -> None:
    code, found = await examine(command, RWRITER_DATABASE_URL=rwriter_database)
    assert (code, found["pepper"][0]) == (0, "warn")


@pytest.mark.parametrize("url", ["", "postgresql://me:hunter2@127.0.0.1:1/db", "mysql://me:hunter2@localhost/db"])
async def test_a_database_that_is_not_reached_fails_alone(command: CommandLine, url: str) -> None:
    code, found = await examine(command, RWRITER_DATABASE_URL=url)
    assert code == 1
    assert {check: status for check, (status, _) in found.items()} == {"database": "fail", "pepper": "warn"}
    assert "hunter2" not in str(found)


async def test_a_database_without_the_tables_fails_with_what_to_run(empty_database: str, command: CommandLine) -> None:
    code, found = await examine(command, RWRITER_DATABASE_URL=empty_database)
    assert (code, found["schema"][0]) == (1, "fail")
    assert "rwriter migrate" in found["schema"][1]


async def test_drift_fails_in_one_line(rwriter_database: str, command: CommandLine) -> None:
    await execute(rwriter_database, "DROP INDEX ix_requests_custom_id")
    code, found = await examine(command, RWRITER_DATABASE_URL=rwriter_database)
    assert (code, found["schema"][0]) == (1, "fail")
    assert found["schema"][1] == (
        "the tables are not what this release needs: missing index ix_requests_custom_id of requests"
    )


async def test_bodies_in_the_servers_log_are_warned_of(rwriter_database: str, command: CommandLine) -> None:
    name = make_url(rwriter_database).database
    await execute(rwriter_database, f'ALTER DATABASE "{name}" SET log_parameter_max_length_on_error = -1')
    await execute(rwriter_database, f'ALTER DATABASE "{name}" SET log_min_duration_statement = 1000')
    code, found = await examine(command, RWRITER_DATABASE_URL=rwriter_database)
    assert (code, found["server log"][0]) == (0, "warn")
    assert "errors and statements" in found["server log"][1]

    await execute(rwriter_database, f'ALTER DATABASE "{name}" SET log_parameter_max_length_on_error = 0')
    await execute(rwriter_database, f'ALTER DATABASE "{name}" SET log_parameter_max_length = 0')
    _, found = await examine(command, RWRITER_DATABASE_URL=rwriter_database)
    assert found["server log"] == ("ok", "without parameters")


@pytest.fixture
async def modest(rwriter_database: str) -> AsyncIterator[str]:
    """The name of a role that may log in, and nothing else."""
    role = f"doctor_{make_url(rwriter_database).database}"
    await execute(rwriter_database, f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{HIDDEN}'")
    yield role
    await execute(rwriter_database, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_what_a_role_may_not_do_is_named(rwriter_database: str, command: CommandLine, modest: str) -> None:
    url = make_url(rwriter_database).set(username=modest, password=HIDDEN).render_as_string(hide_password=False)
    code, found = await examine(command, RWRITER_DATABASE_URL=url)
    assert (code, found["privileges"][0]) == (1, "fail")
    assert "GRANT" in found["privileges"][1]

    await execute(rwriter_database, f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO "{modest}"')
    code, found = await examine(command, RWRITER_DATABASE_URL=url)
    assert (code, found["privileges"][0]) == (0, "warn")
    assert found["privileges"][1].startswith("no DELETE on requests, request_templates, dead_letters")


async def test_an_encoding_that_cannot_hold_every_text_fails(rwriter_database: str, command: CommandLine) -> None:
    name = f"latin_{make_url(rwriter_database).database}"
    await execute(rwriter_database, f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        url = make_url(rwriter_database).set(database=name).render_as_string(hide_password=False)
        code, found = await examine(command, RWRITER_DATABASE_URL=url)
    finally:
        await execute(rwriter_database, f'DROP DATABASE "{name}" WITH (FORCE)')
    assert (code, found["encoding"][0]) == (1, "fail")
    assert "LATIN1" in found["encoding"][1]


async def test_a_spools_folder_that_is_not_the_services_own_fails(
    rwriter_database: str, command: CommandLine, tmp_path: Path
) -> None:
    url = {"RWRITER_DATABASE_URL": rwriter_database}
    _, found = await examine(command, "--spool", str(tmp_path / "none"), **url)
    assert found["spool"][0] == "warn"
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").touch()
    for name, fault in (("open", "can be written by others"), ("link", "is a link"), ("file", "is no folder")):
        code, found = await examine(command, "--spool", str(tmp_path / name), **url)
        assert (code, found["spool"][0]) == (1, "fail")
        assert fault in found["spool"][1]
    assert list(folder.iterdir()) == []

"""Texts of clients, servers and databases reach the operator's terminal as text, in one line, and as nothing else."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from sqlalchemy import make_url

from rwriter import RequestsWriter, Spool
from rwriter.testing import TestDbEngines
from tests.cli.conftest import CommandLine, Done
from tests.support.faults import refuse_bad_bodies
from tests.support.migrations import execute, revisions
from tests.support.records import record

# a title, a cleared screen, the clipboard, a C1 sequence, a line of its own, text that runs backwards
HOSTILE = "x\x1b]0;t\x07\x1b[2J\x1b]52;c;Zm9v\x07\x9b31m\nforged  line\r\u2028\u202egnp.\u2066\x7f"
FIRST = r"x\x1b]0;t\x07\x1b[2J"


def assert_harmless(done: Done, *, lines: int | None = None) -> None:
    for text in (done.stdout, done.stderr):
        hidden = {character for character in text if unicodedata.category(character)[0] == "C"} - {"\n"}
        assert hidden == set()
        assert not any(line.startswith("forged") for line in text.splitlines())
    if lines is not None:
        assert len(done.stdout.splitlines()) == lines


async def test_the_dead_letters_of_a_hostile_client(
    rwriter_database: str, rwriter_engines: TestDbEngines, command: CommandLine
) -> None:
    await refuse_bad_bodies(rwriter_engines)
    item = record(response_body="bad", model=HOSTILE, created_by=HOSTILE, endpoint=HOSTILE, metadata={HOSTILE: HOSTILE})
    async with RequestsWriter(rwriter_engines) as writer:
        await writer.send(item)
    url = {"RWRITER_DATABASE_URL": rwriter_database}
    await execute(rwriter_database, "UPDATE dead_letters SET error = E'a\\x1b[2Jb\\u202ec'")

    listed = await command("dead-letters", "ls", **url)
    assert_harmless(listed, lines=2)
    assert FIRST in listed.stdout
    assert r"a\x1b[2Jb\u202ec" in listed.stdout
    as_json = await command("dead-letters", "ls", "--json", **url)
    assert_harmless(as_json, lines=1)
    (row,) = json.loads(as_json.stdout)
    assert row["created_by"] == item.created_by

    shown = await command("dead-letters", "show", row["id"], "--bodies", **url)
    assert_harmless(shown)
    assert FIRST in shown.stdout
    as_json = await command("dead-letters", "show", row["id"], "--json", **url)
    assert_harmless(as_json, lines=1)
    assert json.loads(as_json.stdout)["model"] == HOSTILE

    await execute(rwriter_database, "UPDATE dead_letters SET error = ''")
    assert (await command("dead-letters", "ls", **url)).code == 0


async def test_the_spool_of_a_hostile_client(tmp_path: Path, command: CommandLine) -> None:
    spool = Spool(tmp_path)
    await spool.open()
    await spool.put([record(model=HOSTILE, response_body=HOSTILE, created_by=HOSTILE)])
    await spool.set_aside([1], HOSTILE)
    await spool.aclose()

    listed = await command("spool", "ls", str(tmp_path))
    assert_harmless(listed, lines=2)
    assert FIRST in listed.stdout
    shown = await command("spool", "show", str(tmp_path), "1", "--bodies")
    assert_harmless(shown)
    as_json = await command("spool", "ls", str(tmp_path), "--json")
    assert_harmless(as_json, lines=1)
    assert json.loads(as_json.stdout)[0]["reason"] == HOSTILE
    as_json = await command("spool", "show", str(tmp_path), "1", "--bodies", "--json")
    assert_harmless(as_json, lines=1)
    assert json.loads(as_json.stdout)["response_body"] == HOSTILE


@pytest.mark.parametrize("name", ["current", "check", "migrate"])
async def test_a_hostile_version_table(rwriter_database: str, command: CommandLine, name: str) -> None:
    await execute(rwriter_database, "UPDATE rwriter_alembic_version SET version_num = E'rwriter_\\x1b[2J\\nforged'")
    assert (await revisions(rwriter_database)) == ["rwriter_\x1b[2J\nforged"]
    done = await command(name, RWRITER_DATABASE_URL=rwriter_database)
    assert_harmless(done)
    assert r"rwriter_\x1b[2J\nforged" in done.stdout + done.stderr


async def test_a_hostile_default_is_drift_in_one_line(rwriter_database: str, command: CommandLine) -> None:
    await execute(rwriter_database, "ALTER TABLE requests ALTER COLUMN model SET DEFAULT E'\\x1b[2J\\nforged  line'")
    await execute(rwriter_database, "DROP INDEX ix_requests_custom_id")
    done = await command("check", RWRITER_DATABASE_URL=rwriter_database)
    assert_harmless(done)
    assert done.code == 1
    assert "missing index" in done.stderr


async def test_a_hostile_search_path_and_a_servers_own_words(rwriter_database: str, command: CommandLine) -> None:
    await execute(rwriter_database, "ALTER TABLE dead_letters RENAME TO hidden")
    name = make_url(rwriter_database).database
    await execute(rwriter_database, f"ALTER DATABASE \"{name}\" SET search_path = 'public', E'\\x1b[2J\\nforged'")
    done = await command("check", RWRITER_DATABASE_URL=rwriter_database)
    assert_harmless(done)
    assert done.code == 1

    url = make_url(rwriter_database).set(database="no\x1b[2J\nforged").render_as_string(hide_password=False)
    refused = await command("current", RWRITER_DATABASE_URL=url)
    assert_harmless(refused)
    assert len(refused.stderr.splitlines()) == 1
    assert r"no\x1b[2J" in refused.stderr

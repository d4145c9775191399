"""An operator works by hand: reap, the spool's and the dead letters' commands."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from rwriter import CompletedRequest, RequestStore, RequestsWriter, Spool
from rwriter.cli._main import app
from rwriter.cli._options import duration
from rwriter.schema import HEAD_REVISION
from rwriter.testing import TestDbEngines
from tests.support.fates import ids, stored
from tests.support.faults import refuse_bad_bodies
from tests.support.records import new_request, record


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ok(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def in_spool(folder: Path, records: list[CompletedRequest], *, spoil: bool = False) -> None:
    async def main() -> None:
        spool = Spool(folder)
        await spool.open()
        await spool.put(records)
        if spoil:
            await spool.set_aside([1], "unreadable: for the test")
        await spool.aclose()

    asyncio.run(main())


def do(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_the_spool_is_listed_and_shown_without_bodies_or_keys(tmp_path: Path) -> None:
    items = [record(response_body="x" * 5_000, api_key="sk-SECRET"), record()]
    in_spool(tmp_path, items, spoil=True)
    table = ok("spool", "ls", tmp_path)
    assert "unreadable: for the test" in table
    rows = json.loads(ok("spool", "ls", tmp_path, "--json"))
    assert [row["request_id"] for row in rows] == [str(item.request_id) for item in items]
    assert [row["reason"] for row in rows] == ["unreadable: for the test", None]
    shown = json.loads(ok("spool", "show", tmp_path, 1, "--json"))
    assert shown["response_body"] == "x" * 200 + "…"
    assert shown["api_key"].startswith("sha256:")
    assert "x" * 5_000 in ok("spool", "show", tmp_path, 1, "--bodies")
    assert "sk-SECRET" not in table + json.dumps(shown)
    assert run("spool", "show", tmp_path, 99).exit_code == 1


@pytest.mark.both_schemas
def test_the_spool_is_replayed_once_and_again_without_harm(
    tmp_path: Path, database: str, schema: str | None, engines: TestDbEngines
) -> None:
    items = [record() for _ in range(250)]
    in_spool(tmp_path, items, spoil=True)
    where = ("--database-url", database, *(() if schema is None else ("--schema", schema)))
    assert "replayed 249 records, 0 left" in ok("spool", "replay", tmp_path, *where)
    assert do(stored(engines)) == ids(items[1:])
    assert json.loads(ok("spool", "replay", tmp_path, *where, "--set-aside", "--json")) == {"replayed": 1, "left": 0}
    assert do(stored(engines)) == ids(items)
    assert "replayed 0 records" in ok("spool", "replay", tmp_path, *where)


def test_the_spool_is_purged_of_what_is_old_and_in_nobodys_hands(tmp_path: Path) -> None:
    in_spool(tmp_path, [record() for _ in range(3)], spoil=True)
    assert "purged 0 records" in ok("spool", "purge", tmp_path, "--older-than", "1h")

    async def age() -> None:
        spool = Spool(tmp_path)
        await spool.open()
        assert await spool.purge(10**12, set_aside_only=True) == 1
        assert len(await spool.claim(1, 1)) == 1
        assert await spool.purge(10**12) == 1
        assert await spool.count() == 1
        await spool.aclose()

    do(age())


@pytest.fixture
def refused(rwriter_engines: TestDbEngines) -> list[CompletedRequest]:
    """Two records in dead_letters, refused for a CHECK that is there still."""
    items = [record(response_body="bad", api_key="sk-SECRET") for _ in range(2)]

    async def main() -> None:
        await refuse_bad_bodies(rwriter_engines)
        async with RequestsWriter(rwriter_engines) as writer:
            for item in items:
                await writer.send(item)

    do(main())
    return items


def test_dead_letters_are_listed_shown_and_replayed_when_the_cause_is_mended(
    refused: list[CompletedRequest], rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    where = ("--database-url", rwriter_database)
    rows = json.loads(ok("dead-letters", "ls", *where, "--json"))
    assert {row["request_id"] for row in rows} == {str(item.request_id) for item in refused}
    assert {row["sqlstate"] for row in rows} == {"23514"}
    assert "no_bad" in ok("dead-letters", "ls", *where)
    letter = next(row["id"] for row in rows if row["request_id"] == str(refused[0].request_id))
    shown = json.loads(ok("dead-letters", "show", letter, *where, "--json"))
    assert (shown["response_body"], shown["api_key"]) == ("bad", refused[0].api_key)
    assert run("dead-letters", "show", uuid.uuid4(), *where).exit_code == 1

    still = run("dead-letters", "replay", *where)
    assert (still.exit_code, still.output.strip()) == (1, "stored 0 records, 2 still refused")

    async def mend() -> None:
        async with rwriter_engines.write.begin() as connection:
            await connection.execute(text("ALTER TABLE requests DROP CONSTRAINT no_bad"))

    do(mend())
    assert json.loads(ok("dead-letters", "replay", letter, *where, "--json")) == {"stored": 1, "refused": 0}
    assert "stored 1 records" in ok("dead-letters", "replay", *where)
    assert "stored 0 records" in ok("dead-letters", "replay", *where)
    assert do(stored(rwriter_engines)) == ids(refused)


def test_dead_letters_are_purged_by_age(
    refused: list[CompletedRequest], rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    where = ("--database-url", rwriter_database)
    assert "purged 0 letters" in ok("dead-letters", "purge", "--older-than", "1h", *where)

    async def age() -> None:
        async with rwriter_engines.write.begin() as connection:
            await connection.execute(text("UPDATE dead_letters SET created_at = created_at - interval '2 hours'"))

    do(age())
    assert json.loads(ok("dead-letters", "purge", "--older-than", "1h", *where, "--json")) == {"purged": len(refused)}


def test_reap_fails_what_is_stuck_in_processing(rwriter_database: str, rwriter_engines: TestDbEngines) -> None:
    new = new_request()

    async def begin() -> None:
        await RequestStore(rwriter_engines).create_realtime(new)
        async with rwriter_engines.write.begin() as connection:
            await connection.execute(text("UPDATE requests SET started_at = started_at - interval '2 hours'"))

    do(begin())
    where = ("--database-url", rwriter_database)
    assert "failed 0 requests" in ok("reap", "--older-than", "3h", *where)
    assert "failed 1 requests" in ok("reap", "--older-than", "1h", *where)
    assert run("reap", "--older-than", "soon", *where).exit_code == 2


def test_the_writer_reaps_by_itself_when_asked_to(rwriter_engines: TestDbEngines) -> None:
    async def main() -> str:
        store = RequestStore(rwriter_engines)
        new = new_request()
        await store.create_realtime(new)
        async with RequestsWriter(rwriter_engines, fail_stale_after=0.001), asyncio.timeout(30):
            while True:
                row = await store.get_request(new.request_id)
                assert row is not None
                if row.status != "processing":
                    return row.status
                await asyncio.sleep(0.01)

    assert do(main()) == "failed"


GROUPS = [[], ["spool"], ["dead-letters"]]


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_every_command_takes_both_names_of_help(group: list[str]) -> None:
    commands: click.Command = app
    for name in group:
        assert isinstance(commands, click.Group)
        found = commands.get_command(click.Context(commands), name)
        assert found is not None
        commands = found
    assert isinstance(commands, click.Group)
    names = commands.list_commands(click.Context(commands))
    assert names
    for name in names:
        assert ok(*group, name, "-h") == ok(*group, name, "--help") != ""
    assert ok(*group, "-h") == ok(*group, "--help")


@pytest.mark.parametrize(
    ("text_", "seconds"), [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800), ("36500d", 36_500 * 86_400)]
)
def test_a_duration_is_a_number_and_a_unit(text_: str, seconds: int) -> None:
    assert duration(text_).total_seconds() == seconds


@pytest.mark.parametrize("wrong", ["", "0s", "7", "7w", "-1h", "1.5h", "1h30m", " 1h", "36501d", "9" * 30 + "s", "٣h"])
def test_what_is_no_duration_makes_no_sense(wrong: str, tmp_path: Path) -> None:
    in_spool(tmp_path, [record()])
    refused = run("spool", "purge", tmp_path, f"--older-than={wrong}")
    assert refused.exit_code == 2
    assert len(json.loads(ok("spool", "ls", tmp_path, "--json"))) == 1


def test_what_is_listed_or_asked_is_told_as_json(rwriter_database: str, tmp_path: Path) -> None:
    where = ("--database-url", rwriter_database)
    in_spool(tmp_path, [])
    current = {"revision": HEAD_REVISION, "head": HEAD_REVISION, "tables": "plain"}
    assert json.loads(ok("current", *where, "--json")) == current
    assert json.loads(ok("check", *where, "--json")) == {"head": HEAD_REVISION}
    assert json.loads(ok("reap", *where, "--older-than", "12h", "--json")) == {"failed": 0}
    assert json.loads(ok("dead-letters", "ls", *where, "--json")) == []
    assert json.loads(ok("spool", "ls", tmp_path, "--json")) == []

"""An operator's commands on the tables: ls, show, tail, stats, usage, purge and erase."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rwriter import CompletedRequest, RequestStore, Spool
from rwriter.schema import TOMBSTONE_OWNER, requests
from rwriter.testing import TestDbEngines
from tests.cli.conftest import CommandLine, Done
from tests.cli.test_terminal import FIRST, HOSTILE, assert_harmless
from tests.support.fates import ids, stored
from tests.support.records import new_request, record
from tests.support.rows import rows

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def recent(minutes: float = 1, **changes: Any) -> CompletedRequest:
    began = datetime.now(UTC) - timedelta(minutes=minutes)
    return record(**({"started_at": began, "completed_at": began + timedelta(seconds=2)} | changes))


class Table:
    """A table with rows in it, and the command line on its database."""

    def __init__(self, command: CommandLine, url: str, engines: TestDbEngines) -> None:
        self._command = command
        self._url = url
        self.engines = engines
        self.store = RequestStore(engines)

    async def run(self, *arguments: object) -> Done:
        return await self._command(*map(str, arguments), RWRITER_DATABASE_URL=self._url)

    async def ok(self, *arguments: object) -> str:
        done = await self.run(*arguments)
        assert done.code == 0, done.stderr
        return done.stdout

    async def json(self, *arguments: object) -> Any:
        return json.loads(await self.ok(*arguments, "--json"))


@pytest.fixture
def table(command: CommandLine, rwriter_database: str, rwriter_engines: TestDbEngines) -> Table:
    return Table(command, rwriter_database, rwriter_engines)


async def test_requests_are_listed_by_every_filter(table: Table) -> None:
    failed = recent(5, status_code=500, model="m-2", metadata={"trace": "t-1", "n": 3})
    other = recent(3, created_by="tenant-b")
    await table.store.persist_completed([old := recent(5_000), failed, other])
    await table.store.create_realtime(begun := new_request(created_by="tenant-b"))

    async def listed(*arguments: object) -> list[uuid.UUID]:
        return [uuid.UUID(row["id"]) for row in (await table.json("ls", *arguments))["data"]]

    everything = [begun.request_id, other.request_id, failed.request_id, old.request_id]
    assert await listed() == everything
    assert await listed("--status", "failed", "--since", "1h") == [failed.request_id]
    assert await listed("--model", "m-2", "--model", "m-3") == [failed.request_id]
    assert await listed("--owner", "tenant-b", "--tier", "priority", "--tier", "none") == everything[:2]
    assert await listed("--tier", "flex") == []
    assert await listed("--fact", "trace=t-1", "--fact", "n=3", "--since", "1d") == [failed.request_id]
    assert await listed("--until", (datetime.now(UTC) - timedelta(minutes=4)).isoformat()) == everything[2:]
    assert await listed("--active-first", "--limit", 2, "--offset", 1) == everything[1:3]
    page = await table.json("ls", "--limit", 3)
    assert await listed("--cursor", page["next_cursor"]) == everything[3:]
    text = await table.run("ls", "--limit", 3)
    assert len(text.stdout.splitlines()) == 4
    assert "--cursor" in text.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ("ls", "--fact", "trace"),
        ("ls", "--fact", "trace=t-1"),  # over all rows
        ("ls", "--since", "yesterday"),
        ("ls", "--cursor", "made-up"),
        ("usage", "--by", "week"),
        ("show", "resp_1"),
        ("purge", "--older-than", "7"),
    ],
    ids=" ".join,
)
async def test_a_command_that_makes_no_sense_exits_with_2(table: Table, wrong: tuple[str, ...]) -> None:
    assert (await table.run(*wrong)).code == 2


async def test_one_request_is_shown_with_its_bodies_cut(table: Table) -> None:
    given = recent(response_body="x" * 5_000, api_key="sk-SECRET")
    await table.store.persist_completed([given])
    shown = await table.json("show", given.request_id)
    assert (shown["response_body"], shown["body"]) == ("x" * 200 + "…", given.request_body)
    assert "x" * 5_000 in await table.ok("show", f"resp_{given.request_id}", "--bodies")
    assert "SECRET" not in json.dumps(shown)
    missing = await table.run("show", uuid.uuid4())
    assert (missing.code, missing.stdout) == (1, "")


async def test_the_tail_prints_what_is_stored_while_it_looks(table: Table) -> None:
    await table.store.persist_completed([recent(1)])
    given = [recent(0, model="m-2"), recent(0, created_by="tenant-b"), recent(0)]
    tail = asyncio.create_task(table.ok("tail", "--every", "1s", "--for", "6s", "--owner", "tenant-a", "--json"))
    while not tail.done():
        # until it has looked once, what is stored is what it begins with
        await table.store.persist_completed([*given, recent(0)])
        await asyncio.sleep(0.2)
    lines = [json.loads(line) for line in (await tail).splitlines()]
    assert lines
    assert {line["created_by"] for line in lines} == {"tenant-a"}
    assert len({line["id"] for line in lines}) == len(lines)


async def test_usage_is_summed_up_and_sorted(table: Table) -> None:
    await table.store.persist_completed(
        [
            recent(input_tokens=5, output_tokens=1),
            recent(created_by="tenant-b", output_tokens=70, status_code=500),
            recent(20_000, created_by="tenant-c", output_tokens=900),
        ]
    )
    found = await table.json("usage", "--by", "created_by", "--sort", "output_tokens")
    assert [(row["created_by"], row["output_tokens"], row["failed"]) for row in found] == [
        ("tenant-b", 70, 1),
        ("tenant-a", 1, 0),
    ]
    assert len(await table.json("usage", "--by", "created_by", "--since", "60d", "--limit", 1)) == 1
    (row,) = await table.json("usage", "--owner", "tenant-a")
    assert (row["model"], row["input_tokens"], row["duration_p50_ms"]) == ("gpt-test", 5, 2_000)
    assert (await table.ok("usage", "--by", "model")).splitlines()[0].split()[:3] == ["MODEL", "REQUESTS", "FAILED"]


async def test_stats_say_what_is_stuck_and_how_large_it_all_is(table: Table, tmp_path: Path) -> None:
    await table.store.persist_completed([recent(), recent(status_code=500), recent(5_000)])
    await table.store.create_realtime(new_request())
    await table.store.bury(recent(), sqlstate="23514", error="refused")
    spool = Spool(tmp_path)
    await spool.open()
    await spool.put([recent()])
    await spool.aclose()
    found = await table.json("stats", "--since", "1h", "--spool", tmp_path)
    assert found["states"] == {"completed": 1, "failed": 1, "processing": 1}
    assert (found["in_flight"]["rows"], found["dead_letters"]["rows"], found["spool"]["rows"]) == (1, 1, 1)
    assert 0 <= found["in_flight"]["oldest_age"] < 600
    assert found["tables"]["requests"]["table_bytes"] > 0
    assert found["spool"]["bytes"] > 0
    text = await table.ok("stats")
    assert re.search(r"^in_flight\.rows +1$", text, re.MULTILINE)
    assert "spool" not in text


async def test_old_requests_are_counted_emptied_and_deleted(table: Table) -> None:
    old = [recent(60 * 24 * 40), recent(60 * 24 * 50)]
    await table.store.persist_completed([*old, young := recent()])
    counted = await table.json("purge", "--older-than", "30d", "--dry-run")
    assert counted == {"requests": 2, "dead_letters": 0, "remaining": True}
    bodies = ("purge", "--older-than", "45d", "--bodies-only")
    assert "would empty 1 requests" in await table.ok(*bodies, "--dry-run")
    assert "emptied 1 requests, 0 dead letters" in await table.ok(*bodies)
    assert (await table.json(*bodies))["requests"] == 0
    assert len(await rows(table.engines.write, requests)) == 3
    assert await table.json("purge", "--older-than", "30d", "--limit", 1, "--yes") == {
        "requests": 1, "dead_letters": 0, "remaining": True,
    }  # fmt: skip
    assert "deleted 1 requests" in await table.ok("purge", "--older-than", "30d", "--budget", "1m")
    assert await stored(table.engines) == {young.request_id}


class Terminal(io.StringIO):
    """Type on a terminal."""

    def isatty(self) -> bool:
        return True


async def test_on_a_terminal_a_purge_asks_and_shows_its_progress(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    await table.store.persist_completed([recent(60 * 24 * 40) for _ in range(30)])
    asked = ("purge", "--older-than", "30d", "--rest", 0)
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    refused = await table.run(*asked)
    assert (refused.code, len(await stored(table.engines))) == (1, 30)
    assert "Delete requests that began before" in refused.stderr
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    some = await table.run(*asked, "--limit", 20)
    assert "deleted 20 requests" in some.stdout
    done = await table.run(*asked, "--yes", "--budget", "1m", "--json")
    assert json.loads(done.stdout) == {"requests": 10, "dead_letters": 0, "remaining": False}
    assert "100%" in done.stderr
    assert "Delete" not in done.stderr


async def test_an_owner_is_erased_once_somebody_has_said_yes(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await table.store.persist_completed([recent(), other := recent(created_by="tenant-b")])
    spool = Spool(tmp_path)
    await spool.open()
    await spool.put([recent(), other])
    await spool.aclose()
    # nobody is there to ask
    refused = await table.run("erase", "tenant-a")
    assert refused.code == 1
    assert "Delete everything of tenant-a's" in refused.stderr
    assert len(await stored(table.engines)) == 2
    done = await table.json("erase", "tenant-a", "--yes", "--spool", tmp_path)
    assert (done["requests"], done["dead_letters"], done["spooled"]) == (1, 0, 1)
    assert await stored(table.engines) == ids([other])
    assert "erased 0 requests" in await table.ok("erase", "tenant-a", "--yes")


async def test_a_hostile_owners_requests_do_no_harm_to_the_terminal(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    given = recent(
        model=HOSTILE, created_by=HOSTILE, endpoint=HOSTILE, response_body=HOSTILE, metadata={HOSTILE: HOSTILE}
    )
    await table.store.persist_completed([given])
    for asked, lines in {
        ("ls",): 2,
        ("show", str(given.request_id)): None,
        ("usage", "--by", "created_by,model"): 2,
        # asks, and some versions of click print a space for it
        ("erase", HOSTILE): None,
    }.items():
        done = await table.run(*asked)
        assert_harmless(done, lines=lines)
        assert FIRST[:10] in done.stdout + done.stderr
    assert_harmless(await table.run("erase", HOSTILE, "--yes", "--json"), lines=1)
    assert {row["created_by"] for row in await rows(table.engines.write, requests)} <= {TOMBSTONE_OWNER}


async def test_the_questions_of_the_page_are_answered(table: Table, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    await spool.open()
    await spool.aclose()
    await table.store.persist_completed([recent(), recent(created_by="tenant-7")])
    text = PAGE.read_text(encoding="utf-8").split("<!-- run by a test -->")[1].split("```")[1]
    asked = [shlex.split(line, comments=True) for line in text.splitlines()[1:]]
    assert len(asked) == 12
    for program, *arguments in asked:
        assert program == "rwriter"
        await table.ok(*(tmp_path if each == "/var/spool/gateway" else each for each in arguments))

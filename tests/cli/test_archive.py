"""``rwriter archive``, and ``rwriter erase --archive``: what an operator types and reads."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

from rwriter import CompletedRequest, DbEngines, RequestStore, RwriterError
from rwriter.archive import ArchiveStore
from rwriter.cli._main import app
from rwriter.partitions import ensure
from rwriter.pytest_plugin import Databases
from rwriter.store import ARCHIVE_JOB
from tests.cli.conftest import CommandLine
from tests.docs.pages import ROOT, noted
from tests.support.archiving import OWNERS, aged_records, archived_details, owners_in
from tests.support.records import id_at, new_request

PAGE = ROOT / "docs/how-to/archive.md"


def run(*arguments: Any, **options: Any) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], **options)


@pytest.fixture
def weekly(_rwriter_databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A database with requests of two past weeks, named by the environment."""
    name = _rwriter_databases.create(_rwriter_databases.template(partitioned="week"))
    monkeypatch.setenv("RWRITER_DATABASE_URL", _rwriter_databases.url(name))
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


def filled(url: str) -> list[CompletedRequest]:
    async def work() -> list[CompletedRequest]:
        now = datetime.now(UTC)
        async with DbEngines.from_url(url) as engines:
            await ensure(engines, since=now - timedelta(weeks=2))
            aged = aged_records(now)
            await RequestStore(engines).persist_completed([*aged.old, *aged.today])
        return aged.old

    return asyncio.run(work())


def test_the_examples_of_the_page_archive_read_and_erase(weekly: str, tmp_path: Path) -> None:
    old = filled(weekly)
    lines = noted(PAGE, "run by a test").splitlines()
    commands = [
        shlex.split(line.replace("/srv/archive", str(tmp_path)).replace("90d", "1s"), comments=True)
        for line in lines
        if line
    ]
    outputs = []
    for program, *arguments in commands:
        assert program == "rwriter"
        done = run(*arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
        outputs.append(done.output)
    assert outputs[0].count("pending") == 2
    (printed,) = re.findall(r"^\[.*\]$", outputs[1], re.MULTILINE)
    assert [row["state"] for row in json.loads(printed)] == ["archived"] * 2
    assert re.search(r"18 requests dropped", outputs[1])
    assert "12 archived requests" in outputs[2]
    assert owners_in(tmp_path) == {OWNERS[0], OWNERS[2]}
    left = [each for each in old if each.created_by != OWNERS[1]]
    assert None not in asyncio.run(archived_details(ArchiveStore(tmp_path), left)).values()
    query = noted(PAGE, "run on DuckDB").replace("/srv/archive", str(tmp_path))
    sums = duckdb.connect().execute(query).fetchall()
    assert sum(row[2] for row in sums) == len(left)
    assert {row[0] for row in sums} == {OWNERS[0], OWNERS[2]}


def test_what_is_kept_exits_with_1_and_says_why(weekly: str, tmp_path: Path) -> None:
    async def begin() -> None:
        async with DbEngines.from_url(weekly) as engines:
            await RequestStore(engines).create_realtime(new_request(request_id=id_at(old[0].started_at)))

    old = filled(weekly)
    asyncio.run(begin())
    done = run("archive", "--before", f"{datetime.now(UTC):%Y-%m-%d}", tmp_path)
    assert done.exit_code == 1
    assert "1 requests are in flight: `rwriter reap" in done.output


def test_an_archive_at_work_is_not_erased_in(weekly: str, tmp_path: Path) -> None:
    async def beside_a_run() -> Result:
        async with DbEngines.from_url(weekly) as engines, RequestStore(engines).turn(ARCHIVE_JOB) as is_mine:
            assert is_mine
            return await asyncio.to_thread(run, "erase", "tenant-7", "--archive", tmp_path, "--yes")

    done = asyncio.run(beside_a_run())
    assert isinstance(done.exception, RwriterError)
    assert "tenant-7 is erased in the database, and not yet in the archive" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["/tmp/archive"], 2, "--before"),  # noqa: S108 -- not made
        (["--before", "yesterday", "/tmp/archive"], 2, "is no time: write 7d"),  # noqa: S108 -- not made
        (["--before", "90d", "--cuts", "0", "/tmp/archive"], 2, "--cuts"),  # noqa: S108 -- not made
        (["--before", "90d", "s3://key:secret@bucket/a"], 2, "--database-url"),
        (["--before", "90d", "s3://bucket/a"], 1, "no database given"),
    ],
)
async def test_a_command_that_makes_no_sense_says_so_and_shows_no_secret(
    command: CommandLine, arguments: list[str], code: int, hint: str
) -> None:
    done = await command("archive", *arguments)
    assert done.code == code
    assert hint in done.stderr
    assert "secret" not in done.stderr

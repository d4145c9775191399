"""The ten questions of the docs are ten, and each command answers its own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.questions import questions
from rwriter import CompletedRequest, DbEngines, RequestStore, Spool
from tests.cli.conftest import CommandLine
from tests.support.records import new_request, record

QUESTIONS = dict(questions())


def begun(hours: float, **changes: Any) -> CompletedRequest:
    at = datetime.now(UTC) - timedelta(hours=hours)
    return record(**({"started_at": at, "completed_at": at + timedelta(seconds=2)} | changes))


FAILED = begun(0.5, status_code=500, output_tokens=1)
EARLIER = begun(5, status_code=500)
OLD = begun(24 * 400)
GREEDY = begun(1, created_by="tenant-9", model="slow", output_tokens=900)
SEVEN = begun(2, created_by="tenant-7", output_tokens=10)
SLOW = begun(3, model="slow", completed_at=datetime.now(UTC), output_tokens=5)
RUNNING = new_request()


@pytest.fixture
async def answered(rwriter_database: str, tmp_path: Path, command: CommandLine) -> Callable[[str], Awaitable[Any]]:
    """Asks a question of a small database; returns what its command prints as JSON."""
    spool = Spool(tmp_path)
    await spool.open()
    await spool.put([record()])
    await spool.aclose()
    async with DbEngines.from_url(rwriter_database) as engines:
        store = RequestStore(engines)
        await store.persist_completed([FAILED, EARLIER, OLD, GREEDY, SEVEN, SLOW])
        await store.create_realtime(RUNNING)
        await store.bury(record(), sqlstate="23514", error="refused")

    async def ask(question: str) -> Any:
        program, *arguments = QUESTIONS[question]
        assert program == "rwriter"
        there = [str(tmp_path) if each == "/var/spool/gateway" else each for each in arguments]
        done = await command(*there, "--json", RWRITER_DATABASE_URL=rwriter_database)
        assert (done.code, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return ask


async def test_each_of_the_ten_questions_is_answered(answered: Callable[[str], Awaitable[Any]]) -> None:
    asked: set[str] = set()

    async def rows(question: str) -> Any:
        asked.add(question)
        return await answered(question)

    assert [row["id"] for row in (await rows("what failed in the last hour?"))["data"]] == [str(FAILED.request_id)]
    hours = [row["hour"] for row in await rows("when did the failures begin?") if row["status"] == "failed"]
    assert min(hours) == EARLIER.started_at.replace(minute=0, second=0, microsecond=0).isoformat().replace(
        "+00:00", "Z"
    )
    assert (await rows("who used most tokens?"))[0]["created_by"] == "tenant-9"
    assert (await rows("which model is slow?"))[0]["model"] == "slow"
    running = (await rows("what is running, and what is stuck?"))["data"]
    assert (running[0]["id"], running[0]["status"]) == (str(RUNNING.request_id), "processing")
    assert [row["id"] for row in (await rows("what did this tenant ask last?"))["data"]] == [str(SEVEN.request_id)]
    assert (await rows("is the spool growing?"))["spool"]["rows"] == 1
    (letter,) = await rows("what did the database refuse, and why?")
    assert (letter["sqlstate"], letter["error"]) == ("23514", "refused")
    assert (await rows("what would retention delete?"))["requests"] == 1
    wrong = {row["check"] for row in await rows("is anything set up wrong?") if row["status"] != "ok"}
    assert "dead letters" in wrong
    assert asked == set(QUESTIONS)
    assert len(asked) == 10

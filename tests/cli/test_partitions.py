"""``rwriter migrate --partitioned`` and ``rwriter partitions``: what an operator types and reads."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rwriter import migrate
from rwriter.cli._main import app
from rwriter.errors import RwriterError


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)


def rows(*arguments: str) -> list[dict[str, Any]]:
    result = run("partitions", *arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    found: list[dict[str, Any]] = json.loads(result.output)
    return found


@pytest.fixture
def weekly(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database made by the command line, and named by its environment."""
    monkeypatch.setenv("RWRITER_DATABASE_URL", empty_database)
    assert run("migrate", "--partitioned", "week").exit_code == 0
    return empty_database


def test_migrate_makes_partitions_and_says_how_the_tables_are(weekly: str) -> None:
    assert "partitioned by week" in run("current").output
    assert json.loads(run("current", "--json").output)["tables"] == "week"
    assert run("check").exit_code == 0
    assert isinstance(run("migrate", "--partitioned", "day").exception, RwriterError)
    assert "PARTITION BY RANGE (id)" in run("migrate", "--sql", "--partitioned", "day").output
    assert run("migrate", "--partitioned", "month").exit_code == 2


def test_partitions_are_listed_made_ahead_and_made_for_the_past(weekly: str) -> None:
    before = rows("ls")
    now = datetime.now(UTC)
    monday = now - timedelta(days=now.weekday())
    assert f"{monday:%Y-%m-%dT00:00Z}" in [row["from"] for row in before]
    assert set(before[0]) == {"from", "to", "rows", "size", "state"}
    assert before[0]["from"] in run("partitions", "ls").output
    assert rows("ensure") == []
    made = rows("ensure", "--ahead", "56d", "--since", "21d")
    assert {row["from"] for row in rows("ls")} - {row["from"] for row in before} == {row["from"] for row in made}
    assert made[0]["from"] < before[0]["from"]
    assert made[-1]["from"] > before[-1]["from"]


@pytest.mark.parametrize(("given", "code"), [(["--yes"], 0), ([], 0), ([], 1)], ids=["yes", "answered", "refused"])
def test_old_partitions_are_dropped_once_it_is_confirmed(weekly: str, given: list[str], code: int) -> None:
    rows("ensure", "--since", "35d")
    before = rows("ls")
    result = run("partitions", "drop", "--older-than", "14d", *given, input="y\n" if code == 0 else "n\n")
    assert result.exit_code == code
    assert ("Drop " in result.output) == (not given)
    left = [row for row in before if datetime.fromisoformat(row["to"]) > datetime.now(UTC) - timedelta(days=14)]
    assert rows("ls") == (left if code == 0 else before)
    assert len(left) < len(before)


def test_of_plain_tables_there_is_nothing_to_list(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWRITER_DATABASE_URL", empty_database)
    asyncio.run(migrate.upgrade(empty_database))
    for arguments in (["ls"], ["ensure"], ["drop", "--older-than", "7d"]):
        result = run("partitions", *arguments)
        assert "are not partitioned: `rwriter migrate --partitioned week`" in str(result.exception)
    assert json.loads(run("current", "--json").output)["tables"] == "plain"

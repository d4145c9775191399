"""A run killed at every step leaves each request in the database or in the archive, and the next run goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore
from rwriter.archive import ArchiveStore, archive_partitions
from rwriter.partitions import _aside, listing
from rwriter.partitions._aside import MARK
from rwriter.schema import first_id
from tests.support.archiving import CUTS, Aged, archived_details, details
from tests.support.rows import run_sql

KILLED = -9


@pytest.fixture
def dying(database: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that archives into ``tmp_path`` and dies at the step that it is told."""
    command = [sys.executable, "-m", "tests.archive.dying", database, str(tmp_path)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        yield process
        process.kill()


def run_until(dying: subprocess.Popen[str], step: str) -> int:
    assert dying.stdin is not None
    assert dying.stdout is not None
    dying.stdin.write(f"{step}\n")
    dying.stdin.flush()
    return int(dying.stdout.readline())


async def test_killed_at_every_step_nothing_is_lost_and_the_next_run_goes_on(
    engine: AsyncEngine, store: RequestStore, aged: Aged, tmp_path: Path, dying: subprocess.Popen[str]
) -> None:
    before = await details(store, aged.old)
    partitions = len(await listing(engine))
    # one partition goes through all of them: each run dies a step further on than the one before
    for step in ("written", "verified", "listed", "detached", "compared", "dropped"):
        assert run_until(dying, step) == KILLED
        stored = await details(store, aged.old)
        archived = await archived_details(ArchiveStore(tmp_path), aged.old)
        assert {key: stored[key] or archived[key] for key in before} == before, step
    assert len(await listing(engine)) == partitions - 1
    assert run_until(dying, "none") == 0
    assert await archived_details(ArchiveStore(tmp_path), aged.old) == before
    assert len(await listing(engine)) == partitions - 2
    assert len(list(tmp_path.rglob("*.parquet"))) == 2 * 2 * CUTS


@pytest.mark.parametrize("aside", [["requests"], ["request_templates"], ["requests", "request_templates"]])
async def test_tables_that_a_crash_left_set_aside_are_attached_again_or_dropped(
    engine: AsyncEngine, store: RequestStore, aged: Aged, tmp_path: Path, aside: list[str]
) -> None:
    first = (await listing(engine))[0]
    before = await details(store, aged.old)
    mark = MARK.format(first=first_id(first.start), end=first_id(first.end))
    for table in aside:
        name = f"{table}_{first.start:%Y%m%d}"
        await run_sql(engine, f"ALTER TABLE {table} DETACH PARTITION {name}")
        await run_sql(engine, f"COMMENT ON TABLE {name} IS '{mark}'")
    if aside == ["request_templates"]:
        # only after the requests were dropped is it left alone: they are in the archive
        await run_sql(engine, f"DROP TABLE requests_{first.start:%Y%m%d}")
        before = {each.request_id: before[each.request_id] for each in aged.second_week}
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    found = await archived_details(ArchiveStore(tmp_path), aged.old)
    assert {key: found[key] for key in before} == before
    tables = await run_sql(engine, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'request%\\_2%'")
    assert len(tables) == 2 * len(await listing(engine))


async def test_a_table_that_somebody_else_commented_on_is_left_alone(
    engine: AsyncEngine, aged: Aged, tmp_path: Path
) -> None:
    await run_sql(engine, "CREATE TABLE theirs (id int)")
    await run_sql(engine, "COMMENT ON TABLE theirs IS 'rwriter: set aside, by hand'")
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    async with engine.connect() as connection:
        assert await _aside.aside(connection, None) == []
    assert await run_sql(engine, "SELECT count(*) FROM theirs") == [(0,)]


async def test_what_a_killed_run_wrote_is_not_read(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(progress: Any) -> None:
        if progress.step == "verified":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS, on_progress=dies)
    archive = ArchiveStore(tmp_path)
    assert set((await archived_details(archive, aged.old)).values()) == {None}
    assert list(tmp_path.rglob("*.parquet"))
    assert await archive.remove_strays() > 0
    assert not list(tmp_path.rglob("*.parquet"))

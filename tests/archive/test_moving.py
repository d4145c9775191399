"""Closed partitions moved: whole and unchanged, beside writers, and only where nothing is lost."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import ArchiveUnusable, CompletedRequest, RequestFilter, RequestStore, RequestsWriter, RwriterError
from rwriter.archive import ArchiveStore, Progress, _source, _steps, _writing, archive_partitions
from rwriter.partitions import _aside, ensure, listing
from rwriter.store import ARCHIVE_JOB
from tests.support.archiving import CUTS, OWNERS, Aged, archived_details, details, owners_in
from tests.support.records import id_at, new_request, record
from tests.support.rows import in_state, insert_request, run_sql


async def test_row_groups_and_the_index_are_cut_and_found_again(
    engine: AsyncEngine,
    aged: Aged,
    tmp_path: Path,
    store: RequestStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, name, value in (
        (_writing, "GROUP_ROWS", 3),
        (_writing, "INDEX_ROWS", 4),
        (_source, "CHUNK_BYTES", 100),
    ):
        monkeypatch.setattr(module, name, value)
    before = await details(store, aged.old)
    await archive_partitions(engine, aged.now, tmp_path, cuts=1)
    assert await archived_details(ArchiveStore(tmp_path), aged.old) == before
    page = await ArchiveStore(tmp_path).list_requests(RequestFilter(created_by=OWNERS[0], limit=100))
    assert page.total_count == sum(each.created_by == OWNERS[0] for each in aged.old)


async def test_in_a_schema_of_its_own_what_has_an_end_beyond_time_is_as_it_was(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, store: RequestStore, awkward: str
) -> None:
    eternal = id_at(aged.first_week[0].started_at)
    columns = in_state(
        "completed", started_at=aged.first_week[0].started_at, completed_at=datetime.max.replace(tzinfo=UTC)
    )
    await insert_request(engine, id=eternal, created_by="tenant-e", **columns)
    before = await store.get_request(eternal)
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS, schema=awkward)
    assert before is not None
    assert await ArchiveStore(tmp_path).get_request(eternal) == before


async def test_remains_of_deletions_and_rows_of_erased_owners_are_left_out(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, store: RequestStore
) -> None:
    began = new_request(request_id=id_at(aged.first_week[0].started_at))
    await store.create_realtime(began)
    await store.delete_request(began.request_id)
    await store.erase("tenant-e")
    late = id_at(aged.first_week[0].started_at)
    columns = in_state("completed", started_at=aged.first_week[0].started_at)
    await insert_request(engine, id=late, created_by="tenant-e", **columns)
    fates = await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    assert [(fate.rows, fate.left_out) for fate in fates if fate.rows] == [(18, 2), (18, 0)]
    assert await ArchiveStore(tmp_path).get_request(late) is None
    assert await ArchiveStore(tmp_path).get_request(began.request_id) is None


async def test_a_partition_with_requests_in_flight_is_kept_and_those_behind_it_go(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, store: RequestStore
) -> None:
    await store.create_realtime(new_request(request_id=id_at(aged.first_week[0].started_at)))
    fates = [fate for fate in await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS) if fate.rows]
    assert [fate.state for fate in fates] == ["kept", "archived"]
    assert "1 requests are in flight: `rwriter reap" in (fates[0].reason or "")
    assert None not in (await details(store, aged.first_week)).values()
    await store.fail_stale(timedelta(microseconds=1))
    (fate,) = await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    assert (fate.state, fate.rows) == ("archived", 19)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Awaitable[Any]]], None]:
    """Has something happen between the reading of each partition and its being set aside."""

    def arranged(event: Callable[[], Awaitable[Any]]) -> None:
        async def beside_others(*args: Any) -> Any:
            await event()
            return await _aside.set_aside(*args)

        monkeypatch.setattr(_steps, "set_aside", beside_others)

    return arranged


Meanwhile = Callable[[Callable[[], Awaitable[Any]]], None]


async def test_what_is_written_while_its_partition_is_read_is_not_lost(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, store: RequestStore, meanwhile: Meanwhile
) -> None:
    late = [record(request_id=id_at(aged.first_week[0].started_at))]

    async def write() -> None:
        if late:
            written.append(late.pop())
            await store.persist_completed(written)

    written: list[CompletedRequest] = []
    meanwhile(write)
    fates = await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    assert [(fate.state, fate.rows) for fate in fates] == [("archived", 19), ("archived", 18)]
    assert None not in (await archived_details(ArchiveStore(tmp_path), [*aged.old, *written])).values()


async def test_what_is_erased_while_its_partition_is_read_does_not_come_back(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, store: RequestStore, meanwhile: Meanwhile
) -> None:
    meanwhile(lambda: store.erase(OWNERS[0]))
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    # in no file, one without a manifest included
    assert owners_in(tmp_path) == {*OWNERS} - {OWNERS[0]}
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "manifests").iterdir()]
    named = {file[key] for each in manifests for file in each["files"] for key in ("path", "index")}
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")} == named


async def test_a_partition_that_never_stands_still_is_kept(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, store: RequestStore, meanwhile: Meanwhile
) -> None:
    late = id_at(aged.second_week[0].started_at).int

    async def write() -> None:
        nonlocal late
        late += 1
        await store.persist_completed([record(request_id=uuid.UUID(int=late))])

    meanwhile(write)
    fates = [fate for fate in await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS) if fate.rows]
    assert [fate.state for fate in fates] == ["archived", "kept"]
    assert "written or deleted meanwhile" in (fates[1].reason or "")
    assert None not in (await details(store, aged.second_week)).values()


async def test_a_partition_that_is_made_again_later_stands_beside_the_first(
    engine: AsyncEngine,
    aged: Aged,
    tmp_path: Path,
    store: RequestStore,
) -> None:
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    await ensure(engine, since=aged.now - timedelta(weeks=2))
    late = record(request_id=id_at(aged.first_week[0].started_at))
    await store.persist_completed([late])
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    assert None not in (await archived_details(ArchiveStore(tmp_path), [*aged.old, late])).values()


async def test_a_dry_run_changes_nothing(engine: AsyncEngine, aged: Aged, tmp_path: Path) -> None:
    before = await listing(engine)
    fates = await archive_partitions(engine, aged.now, tmp_path / "new", dry_run=True)
    assert [fate.rows for fate in fates if fate.state == "pending" and fate.rows] == [18, 18]
    assert await listing(engine) == before
    assert not (tmp_path / "new").exists()


async def test_one_run_at_a_time_and_each_step_is_told(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, store: RequestStore
) -> None:
    steps: list[Progress] = []
    async with store.turn(ARCHIVE_JOB) as is_mine:
        assert is_mine
        with pytest.raises(RwriterError, match="another process is archiving"):
            await archive_partitions(engine, aged.now, tmp_path)
    await archive_partitions(
        engine, aged.first_week[-1].started_at + timedelta(days=2), tmp_path, cuts=1, on_progress=steps.append
    )
    told = [step.step for step in steps if step.start <= aged.first_week[0].started_at < step.end]
    assert told == ["began", "written", "verified", "listed", "detached", "compared", "dropped"]
    assert (steps[-1].rows, steps[-1].total) == (18, 18)
    # bodies are nobody else's to read
    assert {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")} == {0}


async def test_an_archive_belongs_to_one_database(engine: AsyncEngine, aged: Aged, tmp_path: Path) -> None:
    await archive_partitions(engine, aged.first_week[0].started_at, tmp_path)
    mark = tmp_path / "archive.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"database": "7/8"}))
    with pytest.raises(ArchiveUnusable, match="belongs to another database: give each a folder of its own"):
        await archive_partitions(engine, aged.now, tmp_path)
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"format": 9}))
    with pytest.raises(ArchiveUnusable, match="upgrade this one"):
        await archive_partitions(engine, aged.now, tmp_path)


async def test_a_default_partition_stands_in_the_way(engine: AsyncEngine, aged: Aged, tmp_path: Path) -> None:
    await run_sql(engine, "CREATE TABLE theirs PARTITION OF requests DEFAULT")
    with pytest.raises(RwriterError, match="a default partition"):
        await archive_partitions(engine, aged.now, tmp_path)


@pytest.mark.parametrize(
    ("to", "hint"),
    [
        ("s3://key:secret@bucket/logs", "AWS_ACCESS_KEY_ID"),
        ("ftp://host/logs", "is no place for an archive: give a folder, or s3://"),
    ],
)
def test_a_place_that_cannot_be_one_is_refused_in_words(to: str, hint: str) -> None:
    with pytest.raises(ArchiveUnusable, match=hint) as refused:
        ArchiveStore(to)
    assert "secret" not in str(refused.value)


async def test_a_folder_that_cannot_be_written_is_told_and_the_partition_stays(
    engine: AsyncEngine, aged: Aged, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveUnusable, match="cannot be used"):
        await archive_partitions(engine, aged.now, tmp_path / "file" / "archive")
    assert (await listing(engine))[0].start < aged.first_week[0].started_at


@pytest.mark.parametrize("partitioned", [None], indirect=False)
async def test_plain_tables_are_refused_in_words(rwriter_engines: Any, partitioned: None, tmp_path: Path) -> None:
    with pytest.raises(RwriterError, match="the tables are not partitioned: `rwriter purge`"):
        await archive_partitions(rwriter_engines, datetime.now(UTC), tmp_path)


async def test_rows_without_an_owner_and_templates_of_other_weeks_are_no_archives_business(
    engine: AsyncEngine, aged: Aged, tmp_path: Path
) -> None:
    first, second = aged.first_week[0], aged.second_week[0]
    async with engine.begin() as connection:
        query = text("UPDATE requests SET template_id = :theirs WHERE id = :ours")
        await connection.execute(query, {"theirs": second.request_id, "ours": first.request_id})
    await insert_request(
        engine,
        id=id_at(second.started_at),
        batch_id=id_at(second.started_at),
        service_tier="flex",
        **in_state("canceled"),
    )
    fates = [fate for fate in await archive_partitions(engine, aged.now, tmp_path) if fate.rows]
    assert {fate.state for fate in fates} == {"kept"}
    assert "template in another partition" in (fates[0].reason or "")
    assert "no created_by" in (fates[1].reason or "")


async def test_where_there_is_a_ledger_an_entry_says_that_the_ids_are_archived(
    engine: AsyncEngine, aged: Aged, tmp_path: Path
) -> None:
    async with RequestsWriter(engine, ledger=True) as writer:
        await writer.send(record(), wait="committed")
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    told = await run_sql(engine, "SELECT account FROM ledger WHERE kind = 'archived' ORDER BY at")
    bounds = [(account["from"], account["below"]) for (account,) in told]
    assert len(bounds) == 2
    assert bounds[0][0] <= str(aged.first_week[0].request_id) < bounds[0][1]
    assert bounds[1][0] <= str(aged.second_week[0].request_id) < bounds[1][1]

"""The archive answers what the database answered: requests, pages and sums, to their owner alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwriter import ArchiveDamaged, RequestFilter
from rwriter.archive import ArchiveStore
from tests.support.archiving import GROUPS, OWNERS, Moved, archived_details
from tests.support.records import record


async def test_what_the_database_answered_is_what_the_archive_answers(moved: Moved) -> None:
    assert [(fate.state, fate.rows) for fate in moved.fates] == [("archived", 18)] * 2
    with ArchiveStore(moved.folder) as archive:
        assert await archived_details(archive, moved.aged.old) == moved.details
        assert None not in moved.details.values()
        assert [await archive.list_requests(each) for each in moved.filters] == moved.pages
        assert [await archive.usage(**moved.window, by=by) for by in GROUPS] == moved.usage
        (mine,) = await archive.usage(**moved.window, created_by=OWNERS[2], by=())
        assert 0 < mine.requests < moved.usage[0][0].requests
        (nothing,) = await archive.usage(since=moved.window["since"], until=moved.window["since"], by=())
        assert (nothing.requests, nothing.duration_p50_ms) == (0, None)


async def test_pages_of_many_partitions_follow_each_other(moved: Moved, archive: ArchiveStore) -> None:
    asked = RequestFilter(created_by=OWNERS[1], limit=5)
    found, cursor = await archive.list_page(asked)
    while cursor is not None:
        more, cursor = await archive.list_page(RequestFilter(created_by=OWNERS[1], limit=5, cursor=cursor))
        found += more
    mine = [each for each in moved.aged.old if each.created_by == OWNERS[1]]
    assert [row.id for row in found] == [each.request_id for each in reversed(mine)]
    with pytest.raises(ValueError, match="created_by is needed"):
        await archive.list_page(RequestFilter())


async def test_every_id_that_a_client_saw_finds_its_owners_request_alone(moved: Moved, archive: ArchiveStore) -> None:
    for each in moved.aged.second_week:
        if each.custom_id is not None:
            found = await archive.find_request(each.custom_id, each.created_by)
            # both weeks have it: the latest is meant
            assert found is not None
            assert found.id == each.request_id
            assert await archive.find_request(each.custom_id, "tenant-x", request_id=each.request_id) is None
            assert await archive.get_request(each.request_id, created_by="tenant-x") is None
    renamed = await archive.find_request("resp_first", OWNERS[4 % 3])
    assert renamed is not None
    assert renamed.id == moved.aged.second_week[4].request_id
    assert await archive.get_request(record().request_id) is None


@pytest.mark.parametrize(("by", "error"), [("day", TypeError), (["week"], ValueError)])
async def test_sums_by_what_there_is_not_are_refused(
    moved: Moved, archive: ArchiveStore, by: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error, match="by must be"):
        await archive.usage(**moved.window, by=by)


async def test_a_missing_or_broken_file_is_an_error_and_not_a_missing_request(
    moved: Moved, archive: ArchiveStore, folder: Path
) -> None:
    asked = moved.aged.first_week[0].request_id
    for path in folder.rglob("cut-*.parquet"):
        path.write_bytes(b"PAR1 is not enough")
    with pytest.raises(ArchiveDamaged, match="cannot be read"):
        await archive.get_request(asked)
    for path in folder.rglob("*.parquet"):
        path.unlink()
    with pytest.raises(ArchiveDamaged, match="is missing"):
        await archive.get_request(asked)
    for path in (folder / "manifests").iterdir():
        path.write_text("{")
    with pytest.raises(ArchiveDamaged, match="cannot be read"):
        await archive.get_request(asked)

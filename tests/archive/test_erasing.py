"""An owner erased in the archive: gone from every file, crash or not, and nobody else's rows with it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rwriter import RequestFilter
from rwriter.archive import ArchiveStore, _reading, _rewriting
from rwriter.archive._manifests import Manifests
from rwriter.archive._place import Place
from tests.support.archiving import OWNERS, Moved, archived_details, owners_in

ERASED = OWNERS[1]


class Crashed(Exception):
    pass


def theirs(moved: Moved) -> list[Any]:
    return [each for each in moved.aged.old if each.created_by != ERASED]


async def test_an_owners_rows_go_and_everybody_elses_stay(moved: Moved, folder: Path, archive: ArchiveStore) -> None:
    reader = ArchiveStore(folder)
    before = await archived_details(reader, theirs(moved))

    receipt = await archive.erase(f" {ERASED} ")

    assert (receipt.requests, receipt.partitions) == (12, 2)
    assert owners_in(folder) == {*OWNERS} - {ERASED}
    # a reader that has read the manifests of before finds its way to the new files
    assert await archived_details(reader, theirs(moved)) == before
    assert (await reader.list_requests(RequestFilter(created_by=ERASED))).total_count == 0
    ids = {each.request_id.bytes for each in moved.aged.old if each.created_by == ERASED}
    indexed = {key for path in folder.rglob("index-*.parquet") for key in pq.read_table(path)["key"].to_pylist()}
    assert not ids & indexed
    again = await archive.erase(ERASED)
    assert (again.requests, again.partitions) == (0, 0)
    assert again.erased_at > receipt.erased_at


async def test_the_last_owner_of_a_cut_leaves_no_file(moved: Moved, folder: Path, archive: ArchiveStore) -> None:
    for owner in OWNERS:
        await archive.erase(owner)
    assert list(folder.rglob("*.parquet")) == []
    assert set((await archived_details(archive, moved.aged.old)).values()) == {None}


@pytest.mark.parametrize(
    ("place", "method"), [(Manifests, "write"), (Place, "delete")], ids=["before the switch", "after the switch"]
)
async def test_cut_short_it_is_completed_by_the_next_call(
    moved: Moved,
    folder: Path,
    archive: ArchiveStore,
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    method: str,
) -> None:
    def crash(*_: object) -> None:
        raise Crashed

    before = await archived_details(archive, theirs(moved))
    with monkeypatch.context() as patch:
        patch.setattr(place, method, crash)
        with pytest.raises(Crashed):
            await archive.erase(ERASED)
    assert await archived_details(ArchiveStore(folder), theirs(moved)) == before
    await archive.erase(ERASED)
    assert owners_in(folder) == {*OWNERS} - {ERASED}
    assert await archived_details(archive, theirs(moved)) == before


async def test_a_manifest_that_another_switched_meanwhile_is_not_overwritten(
    moved: Moved, folder: Path, archive: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, others = _reading.verify, [OWNERS[0]]

    def beside_another(cuts: Any, cut: Any) -> int:
        # the new files are there, the manifest is the old one
        if others:
            with ThreadPoolExecutor(1) as pool, ArchiveStore(folder) as other:
                pool.submit(asyncio.run, other.erase(others.pop())).result()
        return real(cuts, cut)

    monkeypatch.setattr(_rewriting, "verify", beside_another)
    await archive.erase(ERASED)
    await archive.remove_strays()
    assert owners_in(folder) == {OWNERS[2]}
    left = [each for each in moved.aged.old if each.created_by == OWNERS[2]]
    assert None not in (await archived_details(archive, left)).values()

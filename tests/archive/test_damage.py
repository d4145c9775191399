"""Files that are not what was written: found before the partition is dropped, and told by name afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import ArchiveDamaged, RequestStore
from rwriter.archive import ArchiveStore, Progress, _steps, archive_partitions
from rwriter.partitions import listing
from tests.support.archiving import CUTS, Aged, archived_details, details

Damage = Callable[[Path], None]


def cut_short(folder: Path) -> None:
    path = next(folder.rglob("cut-*.parquet"))
    path.write_bytes(path.read_bytes()[:-200])


def one_bit(folder: Path) -> None:
    path = next(folder.rglob("cut-*.parquet"))
    # of a time, which is in no digest: the page's checksum must tell
    column = pq.ParquetFile(path).metadata.row_group(0).column(pq.read_schema(path).names.index("started_at"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)


def missing(folder: Path) -> None:
    next(folder.rglob("cut-*.parquet")).unlink()


def another_text(folder: Path) -> None:
    path = next(folder.rglob("cut-*.parquet"))
    table = pq.read_table(path)
    place = table.column_names.index("response_body")
    texts = ["forged", *table["response_body"].to_pylist()[1:]]
    pq.write_table(table.set_column(place, "response_body", pa.array(texts, pa.string())), path)


def a_row_less(folder: Path) -> None:
    path = next(folder.rglob("cut-*.parquet"))
    pq.write_table(pq.read_table(path).slice(1), path)


def another_index(folder: Path) -> None:
    path = next(folder.rglob("index-*.parquet"))
    pq.write_table(pq.read_table(path).slice(1), path)


DAMAGES = (cut_short, one_bit, missing, another_text, a_row_less, another_index)


async def test_damaged_while_it_is_written_the_partition_is_not_dropped(
    engine: AsyncEngine, aged: Aged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = _steps.Shelf.verify, await listing(engine)
    for damage in DAMAGES:

        async def after_harm(shelf: Any, manifest: Any, damage: Damage = damage) -> None:
            damage(tmp_path)
            await real(shelf, manifest)

        with monkeypatch.context() as patch:
            patch.setattr(_steps.Shelf, "verify", after_harm)
            with pytest.raises(ArchiveDamaged, match=r"\.parquet"):
                await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
        assert await listing(engine) == before, damage.__name__
        assert set((await archived_details(ArchiveStore(tmp_path), aged.old)).values()) == {None}


@pytest.mark.parametrize("damage", [one_bit, missing])
async def test_damaged_before_its_partition_was_dropped_it_is_written_anew(
    engine: AsyncEngine, store: RequestStore, aged: Aged, tmp_path: Path, damage: Damage
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == "listed":
            raise KeyboardInterrupt

    before = await details(store, aged.old)
    with pytest.raises(KeyboardInterrupt):
        await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS, on_progress=stop)
    damage(tmp_path)
    await archive_partitions(engine, aged.now, tmp_path, cuts=CUTS)
    assert await archived_details(ArchiveStore(tmp_path), aged.old) == before

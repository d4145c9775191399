"""A journaled record whose sender is cancelled was not accepted: its row must not come back from the spool."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rwriter import RwriterError, Spool, SpoolFull
from rwriter.spool._file import FILE_NAME
from tests.support.driving import CancelAt, eventually, settle_loop
from tests.support.records import record

MOST_AWAITS = 20


@pytest.fixture
async def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Spool]:
    monkeypatch.setattr("rwriter.spool._file.BUSY_TIMEOUT", 0.0)  # a locked file fails at once
    spool = Spool(tmp_path)
    await spool.open()
    yield spool
    await spool.aclose()


async def only_row_is(spool: Spool, seq: int) -> bool:
    return [item.seq for item in await spool.listing()] == [seq]


async def nothing_is_left(folder: Path) -> None:
    """Fail if the next process to open the folder would replay a record."""
    again = Spool(folder)
    await again.open()
    assert await again.count() == 0
    await again.aclose()


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
async def test_cancelled_before_or_after_its_commit_a_record_leaves_no_row(spool: Spool, late: bool) -> None:
    for number in range(MOST_AWAITS):
        cancel, gone = CancelAt(number, late=late), record()
        task = asyncio.create_task(cancel.run(spool.journal(gone)))
        await asyncio.wait({task})
        if not cancel.reached:
            assert number > 0, "the operation never awaited: nothing was tested"
            await spool.remove([task.result()])
            return
        assert task.cancelled()
        # rows are written in turn: with this one there, the other was, too
        stays = await spool.journal(record())
        await eventually(lambda seq=stays: only_row_is(spool, seq))  # type: ignore[misc]
        await spool.remove([stays])
    pytest.fail("the operation awaited without end")


async def test_of_records_journaled_together_only_the_cancelled_one_goes(spool: Spool) -> None:
    kept = [record(), record()]
    tasks = [asyncio.create_task(spool.journal(item)) for item in (kept[0], record(), kept[1])]
    await settle_loop(1)
    tasks[1].cancel()
    seqs = [await tasks[0], await tasks[2]]

    async def only_the_others() -> bool:
        return [item.seq for item in await spool.listing()] == sorted(seqs)

    await eventually(only_the_others)
    assert tasks[1].cancelled()
    await spool.release(seqs)
    assert [row.record for row in await spool.claim(10, 1 << 30)] == kept


async def test_a_row_that_cannot_be_taken_out_at_once_is_out_before_the_next_claim(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        task = asyncio.create_task(spool.journal(record()))
        await settle_loop(1)
        ((_, done),) = spool._waiting

        def lock_and_cancel(_: object) -> None:
            other.execute("BEGIN IMMEDIATE")
            task.cancel()

        done.add_done_callback(lock_and_cancel)
        await asyncio.wait({task})
        assert task.cancelled()
        await eventually(
            lambda: "cannot remove abandoned records from the spool yet: cannot use the spool" in caplog.text
        )
        other.execute("ROLLBACK")
    assert await spool.count() == 1
    assert await spool.claim(10, 1 << 30) == []
    assert await spool.count() == 0


async def test_a_cancelled_record_that_found_no_room_is_no_error_of_anyone_else(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=200_000)
    await spool.open()
    task = asyncio.create_task(spool.journal(record(response_body="x" * 300_000)))
    await settle_loop(1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    with pytest.raises(SpoolFull):
        await spool.journal(record(response_body="x" * 300_000))
    seq = await spool.journal(record())
    assert await only_row_is(spool, seq)
    await spool.aclose()
    with pytest.raises(RwriterError, match="not open"):
        await spool.journal(record())


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancelled_record_does_not_come_back_from_a_spool_closed_soon_after(tmp_path: Path, steps: int) -> None:
    spool = Spool(tmp_path)
    await spool.open()
    task = asyncio.create_task(spool.journal(record()))
    await settle_loop(1)
    task.cancel()
    await asyncio.wait({task})
    await settle_loop(steps)
    await spool.aclose()
    await nothing_is_left(tmp_path)


async def test_a_cancelled_record_does_not_come_back_from_a_spool_closed_as_its_commit_ends(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    await spool.open()
    task = asyncio.create_task(spool.journal(record()))
    await settle_loop(1)
    task.cancel()
    await asyncio.wait({task})
    assert spool._committing is not None
    async with asyncio.timeout(20):
        while not spool._committing.done():
            await asyncio.sleep(0)
    await spool.aclose()
    await nothing_is_left(tmp_path)


async def test_a_cancelled_record_does_not_come_back_from_a_spool_whose_closing_began_before_its_commit_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    await spool.open()
    on_thread = spool._on_thread
    closing: list[asyncio.Task[None]] = []

    async def closed_meanwhile(work: Any) -> Any:
        answer = await on_thread(work)
        if not closing:
            # its first step comes before the commit's last one, and its second before the number is told
            closing.append(asyncio.create_task(spool.aclose()))
            await asyncio.sleep(0)
        return answer

    monkeypatch.setattr(spool, "_on_thread", closed_meanwhile)
    task = asyncio.create_task(spool.journal(record()))
    await settle_loop(1)
    task.cancel()
    await asyncio.wait({task})
    await eventually(lambda: bool(closing))
    await closing[0]
    await nothing_is_left(tmp_path)

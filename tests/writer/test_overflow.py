"""Records on their way to the spool and back, when the spool can do nothing or their end comes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rwriter import Spool
from rwriter.spool import SpooledRecord
from rwriter.writer._overflow import Overflow
from rwriter.writer._pending import PendingRecord
from tests.support.records import record


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    made = Spool(tmp_path)
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
def overflow(spool: Spool) -> Overflow:
    return Overflow(spool)


def pending(number: int = 0) -> PendingRecord:
    item = record()
    return PendingRecord(item, item.text_bytes, number, 0.0)


@contextmanager
def broken(spool: Spool) -> Iterator[None]:
    """Have every operation on the spool's file fail while the block runs, as on a disk that went away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_on_thread", _disk_is_gone)
        yield


async def _disk_is_gone(_work: object) -> None:
    raise OSError(5, "Input/output error")


async def test_copies_that_cannot_be_removed_are_told_of_and_replayed_once_more(
    spool: Spool, overflow: Overflow, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [pending(), pending()]
    await overflow.copy(entries)
    entries[0].fate = "persisted"
    with broken(spool):
        await overflow.discard_copies(entries)
    assert "cannot remove stored records from the spool" in caplog.text
    assert await spool.count() == 2


async def test_only_settled_records_with_a_copy_are_removed(spool: Spool, overflow: Overflow) -> None:
    settled, unsettled, without = pending(), pending(), pending()
    await overflow.copy([settled, unsettled])
    settled.fate = without.fate = "persisted"
    await overflow.discard_copies([settled, unsettled, without])
    await overflow.discard_copies([settled, without])
    assert [item.request_id for item in await spool.listing()] == [unsettled.record.request_id]


async def test_records_with_a_copy_are_not_lost_when_the_spool_cannot_be_written_to(
    spool: Spool, overflow: Overflow, caplog: pytest.LogCaptureFixture
) -> None:
    copied, new = pending(), pending()
    await overflow.copy([copied])
    with broken(spool):
        lost, error = await overflow.keep([copied, new])
    assert lost == [new]
    assert isinstance(error, OSError)
    assert overflow.kept.is_set()
    assert "cannot give records back to the spool yet" in caplog.text


async def test_when_all_are_lost_nobody_is_woken(spool: Spool, overflow: Overflow) -> None:
    entries = [pending()]
    with broken(spool):
        assert (await overflow.keep(entries))[0] == entries
    assert not overflow.kept.is_set()


async def test_a_copy_that_finds_no_room_leaves_the_record_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = Spool(tmp_path / "small", max_bytes=1)
    await small.open()
    overflow, entry = Overflow(small), pending()
    await overflow.copy([entry])
    assert "cannot put all pending records into the spool yet" in caplog.text
    assert (await overflow.keep([entry]))[0] == [entry]
    assert not await overflow.set_aside(entry, "refused everywhere")
    assert "cannot set a record aside" in caplog.text
    await small.aclose()


async def test_a_record_that_ends_while_it_is_copied_leaves_no_copy(
    spool: Spool, overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = pending(), pending()
    journal = spool.journal

    async def journal_as_both_end(item: object) -> int:
        number = await journal(item)  # type: ignore[arg-type]
        early.fate = late.fate = "persisted"
        return number

    monkeypatch.setattr(spool, "journal", journal_as_both_end)
    await overflow.copy([early])
    await overflow.copy([late])
    await overflow._copied(late)
    assert await spool.count() == 0


async def test_a_record_with_and_one_without_a_copy_are_set_aside(spool: Spool, overflow: Overflow) -> None:
    copied, new = pending(), pending()
    await overflow.copy([copied])
    for entry in (copied, new):
        assert await overflow.set_aside(entry, "refused everywhere")
    assert [item.reason for item in await spool.listing()] == ["refused everywhere"] * 2
    assert await spool.claim(10, 10**9) == []


async def test_what_was_claimed_is_given_back_and_what_was_erased_is_not(spool: Spool, overflow: Overflow) -> None:
    theirs, others = record(created_by="theirs"), record(created_by="others")
    await spool.put([theirs, others])
    rows: list[SpooledRecord] = await spool.claim(10, 10**9)
    entries = [overflow.claimed(row) for row in rows]
    await overflow.forget("theirs", datetime.now(UTC), entries[:1])
    assert await overflow.keep(entries[1:]) == ([], None)
    assert [row.record.request_id for row in await spool.claim(10, 10**9)] == [others.request_id]


async def test_a_journaled_record_that_was_not_accepted_is_withdrawn(spool: Spool, overflow: Overflow) -> None:
    numbers = await asyncio.gather(overflow.journal(record()), overflow.journal(record()))
    await overflow.withdraw(numbers[0])
    entry = pending()
    overflow.has_copy(entry, numbers[1])
    entry.fate = "persisted"
    await overflow.discard_copies([entry])
    assert await spool.count() == 0

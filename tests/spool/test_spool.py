"""The spool on a real disk, shared by real processes."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rwriter import CompletedRequest, RwriterError, Spool, SpoolFull
from rwriter.spool._file import FILE_NAME
from tests.support.records import record, renamed

MANY = 1_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def opened(folder: Path, **options: object) -> Spool:
    spool = Spool(folder, **options)  # type: ignore[arg-type]
    await spool.open()
    return spool


async def claimed(spool: Spool) -> list[CompletedRequest]:
    return [row.record for row in await spool.claim(MANY, 1 << 30)]


async def test_what_is_put_is_claimed_once_oldest_first_and_whole(folder: Path) -> None:
    spool = await opened(folder)
    sent = [record(custom_id=f"resp_{number}", response_body="🙂" * number) for number in range(5)]
    await spool.put(sent[:3])
    await spool.put(sent[3:])
    assert await claimed(spool) == sent
    assert await claimed(spool) == []
    assert await spool.count() == 5
    await spool.aclose()


async def test_a_claim_is_bounded_by_records_and_by_bytes_but_never_empty(folder: Path) -> None:
    spool = await opened(folder)
    await spool.put([record(response_body="x" * 10_000) for _ in range(4)])
    assert len(await spool.claim(3, 1 << 30)) == 3
    assert len(await spool.claim(3, 1)) == 1
    await spool.aclose()


async def test_released_rows_can_be_claimed_again_and_removed_ones_are_gone(folder: Path) -> None:
    spool = await opened(folder)
    await spool.put([record() for _ in range(3)])
    rows = await spool.claim(MANY, 1 << 30)
    await spool.remove([rows[0].seq])
    await spool.release([row.seq for row in rows[1:]])
    assert [row.seq for row in await spool.claim(MANY, 1 << 30)] == [row.seq for row in rows[1:]]
    await spool.aclose()


async def test_rows_outlive_the_spool_that_wrote_them(folder: Path) -> None:
    spool = await opened(folder)
    await spool.put([record()])
    await spool.journal(record())
    await spool.aclose()
    await spool.aclose()
    again = await opened(folder)
    assert len(await claimed(again)) == 2
    await again.aclose()


async def test_rows_in_the_hands_of_one_spool_are_not_claimed_by_another(folder: Path) -> None:
    one, two = await opened(folder), await opened(folder)
    await one.journal(record())
    await one.put([record()])
    assert len(await claimed(one)) == 1
    assert await claimed(two) == []
    await one.aclose()
    assert len(await claimed(two)) == 2
    await two.aclose()


HOLDER = """
import asyncio, sys
from rwriter import Spool
from tests.support.records import record, renamed

async def main():
    spool = Spool(sys.argv[1])
    await spool.open()
    for _ in range(3):
        await spool.journal(record())
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_rows_of_a_killed_process_are_adopted_and_those_of_a_living_one_are_not(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "ready\n"
        spool = await opened(folder)
        assert await claimed(spool) == []
        holder.send_signal(signal.SIGKILL)
        await asyncio.to_thread(holder.wait)
        assert len(await claimed(spool)) == 3
        await spool.aclose()


async def test_the_files_are_for_their_owner_alone(folder: Path) -> None:
    spool = await opened(folder)
    await spool.put([record()])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 4  # the file, its -wal and -shm, and the owner's lock
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await spool.aclose()


async def test_a_full_spool_takes_nothing_of_a_batch_and_says_so(folder: Path) -> None:
    spool = await opened(folder, max_bytes=200_000)
    await spool.put([record(response_body="x" * 50_000) for _ in range(2)])
    with pytest.raises(SpoolFull, match="200000 bytes"):
        await spool.put([record(), record(response_body="x" * 150_000)])
    assert await spool.count() == 2
    rows = await spool.claim(MANY, 1 << 30)
    await spool.remove([row.seq for row in rows])
    await spool.put([record(response_body="x" * 150_000)])
    await spool.aclose()


async def test_an_unreadable_row_is_set_aside_with_its_reason_and_the_others_are_replayed(folder: Path) -> None:
    spool = await opened(folder)
    good = [record(), record()]
    await spool.put([good[0], record(), good[1]])
    await spool.aclose()
    with sqlite3.connect(folder / FILE_NAME) as file:
        file.execute("UPDATE records SET payload = substr(payload, 1, 40) WHERE seq = 2")
    file.close()
    spool = await opened(folder)
    assert await claimed(spool) == good
    assert await spool.count() == 2
    await spool.aclose()
    file = sqlite3.connect(folder / FILE_NAME)
    assert file.execute("SELECT seq, reason FROM set_aside").fetchall() == [(2, "damaged: its checksum does not match")]
    file.close()


@pytest.mark.parametrize("damage", [b"", b"not a database, by any means" * 100])
async def test_a_corrupt_file_is_kept_under_another_name_and_a_new_one_begun(
    folder: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(damage)
    spool = await opened(folder)
    await spool.put([record()])
    assert len(await claimed(spool)) == 1
    await spool.aclose()
    kept = list(folder.glob("*.corrupt-*"))
    assert [path.read_bytes() for path in kept] == ([damage] if damage else [])
    assert ("cannot be read" in caplog.text) == bool(damage)


async def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((RwriterError, OSError), match="file"):
        await Spool(tmp_path / "file").open()
    spool = Spool(tmp_path / "fine")
    with pytest.raises(RwriterError, match="not open"):
        await spool.put([record()])


async def test_journaling_together_shares_commits_and_keeps_every_record(folder: Path) -> None:
    spool = await opened(folder)
    sent = [record() for _ in range(200)]
    seqs = await asyncio.gather(*(spool.journal(item) for item in sent))
    assert len(set(seqs)) == 200
    assert (await spool.get(sent[7].request_id)) == sent[7]
    assert await spool.get(record().request_id) is None
    await spool.aclose()
    spool = await opened(folder)
    assert {item.request_id for item in await claimed(spool)} == {item.request_id for item in sent}
    await spool.aclose()


@pytest.mark.parametrize(("option", "value"), [("max_bytes", 0), ("fsync", "sometimes")])
def test_an_option_that_cannot_be_used_is_named(folder: Path, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        Spool(folder, **{option: value})  # type: ignore[arg-type]
    assert not folder.exists()


async def test_a_record_of_two_ids_is_found_by_both_and_comes_back_whole(folder: Path) -> None:
    spool = await opened(folder)
    one, other = renamed(), renamed(created_by="other")
    await spool.put([one, other, record(custom_id="resp_last\x1fresp_first")])
    for known in ("resp_first", "resp_last"):
        assert await spool.find(known, "tenant-a") == one
        assert await spool.find(known, "other") == other
    assert await spool.find("resp_last\x1fresp_firs", "tenant-a") is None
    assert await spool.get(one.request_id) == one
    assert [stored.record for stored in await spool.claim(10, 1 << 20)][:2] == [one, other]
    await spool.aclose()


async def test_records_are_found_by_id_and_by_their_clients_id_within_their_owner(folder: Path) -> None:
    spool = await opened(folder)
    old, new = record(custom_id="chatcmpl-1"), record(custom_id="chatcmpl-1")
    foreign = record(custom_id="chatcmpl-1", created_by="other")
    await spool.put([old, new, foreign, record()])
    assert await spool.get(old.request_id) == old
    assert await spool.find("chatcmpl-1", "tenant-a") == new
    assert await spool.find("chatcmpl-1", "other") == foreign
    assert await spool.find("chatcmpl-1", "nobody") is None
    assert await spool.find("chatcmpl-2", "tenant-a") is None
    await spool.aclose()

"""A spool that somebody, or the disk, laid hands on: nothing wrong is replayed, and what comes is kept."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rwriter import Spool, SpoolFull, SpoolUnusable
from rwriter.spool._file import FILE_NAME
from tests.support.records import record
from tests.support.spools import ALL, found_in, opened

MIB = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
async def spool(folder: Path) -> AsyncIterator[Spool]:
    made = Spool(folder)
    await made.open()
    yield made
    await made.aclose()


# -- damage


@pytest.mark.slow
@pytest.mark.parametrize("flips", [1, 3, 30])
async def test_whatever_bits_are_flipped_what_is_replayed_is_what_was_put(folder: Path, flips: int) -> None:
    sent = [
        record(response_body=f"answer {n} " * 150, custom_id=f"chat-{n}", created_by=f"t-{n % 3}") for n in range(40)
    ]
    spool = Spool(folder)
    await spool.open()
    await spool.put(sent)
    await spool.aclose()
    whole = (folder / FILE_NAME).read_bytes()
    draw = random.Random(flips)  # noqa: S311 -- a seed, so that each run flips the same
    for _ in range(25):
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        damaged = bytearray(whole)
        for _ in range(flips):
            damaged[draw.randrange(4_096, len(damaged))] ^= 1 << draw.randrange(8)
        (folder / FILE_NAME).write_bytes(damaged)
        (folder / FILE_NAME).chmod(0o600)
        found = await found_in(folder)
        assert all(each in sent for each in found)
        if flips == 1:
            assert len(found) >= 20


async def test_a_row_of_another_is_not_taken_for_this_one(folder: Path, spool: Spool) -> None:
    one, another = record(), record()
    await spool.put([one, another])
    with sqlite3.connect(folder / FILE_NAME) as file:
        # each value is sound alone
        file.execute("UPDATE records SET payload = (SELECT payload FROM records WHERE seq = 2) WHERE seq = 1")
        file.execute("UPDATE records SET custom_id = 'stolen' WHERE seq = 2")
    file.close()
    assert await spool.claim(*ALL) == []
    assert [item.reason for item in await spool.listing()] == ["damaged: its checksum does not match"] * 2
    assert await spool.find("stolen", "tenant-a") is None


@pytest.mark.parametrize("column", ["custom_id", "claimant", "database", "origin"])
async def test_a_text_that_is_no_text_any_more_stops_nothing(folder: Path, column: str) -> None:
    one, another = record(custom_id="chat-1"), record()
    async with opened(folder) as spool:
        await spool.put([one, another])
    with sqlite3.connect(folder / FILE_NAME) as file:
        file.execute(f"UPDATE records SET {column} = CAST(x'63ff' AS TEXT) WHERE seq = 1")
    file.close()
    async with opened(folder) as spool:
        await spool.belongs_to("one")
        # a claimant that is none is dead
        expected = [one, another] if column == "claimant" else [another]
        assert [row.record for row in await spool.claim(*ALL)] == expected


async def test_a_file_that_turns_out_to_be_damaged_while_it_is_open_is_replaced(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [record(response_body="x" * 3_000) for _ in range(30)]
    spool = Spool(folder)
    await spool.open()
    await spool.put(sent)
    await spool.aclose()
    spool = Spool(folder)
    await spool.open()
    path = folder / FILE_NAME
    with path.open("r+b") as file:
        # pages of the table, behind the ones that the open file has read
        for page in range(8, 16):
            file.seek(page * 4_096)
            file.write(os.urandom(4_096))
    found = []
    while rows := await spool.claim(*ALL):
        found += [row.record for row in rows]
        await spool.remove([row.seq for row in rows])
    assert all(each in sent for each in found)
    assert len(found) >= 10
    later = record()
    await spool.put([later])
    assert [row.record for row in await spool.claim(*ALL)] == [later]
    await spool.aclose()


async def test_a_claimant_that_is_a_path_does_not_reach_the_file_system(folder: Path, spool: Spool) -> None:
    bystander = folder.parent / "bystander.lock"
    bystander.write_text("mine")
    await spool.put([record()])
    with sqlite3.connect(folder / FILE_NAME) as file:
        file.execute("UPDATE records SET claimant = '../bystander'")
    file.close()
    assert len(await spool.claim(*ALL)) == 1
    assert bystander.read_text() == "mine"


# -- removed, replaced


@pytest.mark.parametrize("how", ["file", "folder", "replaced"])
async def test_a_spool_that_is_removed_while_open_is_made_anew(
    folder: Path, spool: Spool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = record(), record()
    number = await spool.journal(before)
    if how == "folder":
        shutil.rmtree(folder)
    else:
        (folder / FILE_NAME).unlink()
    if how == "replaced":
        other = Spool(folder)
        await other.open()
        await other.aclose()
    later = await spool.journal(after)
    assert "was removed or replaced" in caplog.text
    assert later > number
    # the rows were still in the open file, and go on under their numbers
    await spool.remove([number])
    await spool.release([later])
    assert await found_in(folder) == [after]


async def test_numbers_of_the_old_file_never_remove_rows_of_the_new_one(folder: Path, spool: Spool) -> None:
    number = await spool.journal(record())
    (folder / FILE_NAME).unlink()
    theirs = Spool(folder)
    await theirs.open()
    other = record()
    await theirs.put([other])
    await spool.remove([number])
    await theirs.aclose()
    assert other in await found_in(folder)


# -- who may touch it


@pytest.mark.parametrize("what", ["folder", "file", "log"])
async def test_what_others_can_write_is_refused(folder: Path, what: str) -> None:
    spool = Spool(folder)
    await spool.open()
    await spool.aclose()
    (folder / f"{FILE_NAME}-wal").touch(mode=0o600)
    part = {"folder": folder, "file": folder / FILE_NAME, "log": folder / f"{FILE_NAME}-wal"}[what]
    part.chmod(part.stat().st_mode | 0o020)
    with pytest.raises(SpoolUnusable, match="others can write"):
        await Spool(folder).open()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["folder", "file"])
async def test_what_another_user_owns_is_refused(folder: Path, what: str) -> None:
    spool = Spool(folder)
    await spool.open()
    await spool.aclose()
    os.chown(folder if what == "folder" else folder / FILE_NAME, 65_534, -1)
    with pytest.raises(SpoolUnusable, match="belongs to another user"):
        await Spool(folder).open()


@pytest.mark.parametrize("what", ["folder", "file"])
async def test_a_link_is_refused(folder: Path, what: str) -> None:
    spool = Spool(folder)
    await spool.open()
    await spool.aclose()
    part = folder if what == "folder" else folder / FILE_NAME
    moved = part.with_name("elsewhere")
    part.rename(moved)
    part.symlink_to(moved)
    with pytest.raises(SpoolUnusable, match="symbolic link"):
        await Spool(folder).open()


async def test_every_failure_to_open_is_the_librarys_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken" / FILE_NAME).mkdir(parents=True)
    for where in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "taken", Path("/proc/nowhere")):
        with pytest.raises(SpoolUnusable):
            await Spool(where).open()


async def test_a_spool_that_is_not_there_can_be_asked_for_without_making_it(tmp_path: Path) -> None:
    with pytest.raises(SpoolUnusable, match="there is no spool"):
        await Spool(tmp_path / "nothing").open(create=False)
    assert list(tmp_path.iterdir()) == []


# -- the log


async def test_the_log_stays_bounded_beside_a_reader_that_does_not_end(folder: Path) -> None:
    spool = Spool(folder, max_bytes=20 * MIB)
    await spool.open()
    await spool.put([record()])
    reader = sqlite3.connect(folder / FILE_NAME)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchone()
    log = folder / f"{FILE_NAME}-wal"

    async def pass_through() -> None:
        for _ in range(100):
            number = await spool.journal(record(response_body=uuid.uuid4().hex * 20_000))
            await spool.remove([number])

    with pytest.raises(SpoolFull, match="end the readers"):
        await pass_through()
    assert log.stat().st_size < 25 * MIB
    reader.close()
    await spool.journal(record(response_body=uuid.uuid4().hex * 20_000))
    await spool.aclose()

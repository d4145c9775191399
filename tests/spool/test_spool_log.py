"""A damaged write-ahead log of a spool whose process was killed: what was journaled is in it alone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from rwriter import Spool
from rwriter.spool import _log
from rwriter.spool._file import FILE_NAME
from tests.support.records import record
from tests.support.spools import found_in, opened

HEADER, FRAME, PAGE = 32, 24, 4_096
LOG = f"{FILE_NAME}-wal"
SENT = [record(response_body=f"answer {number} " * 150) for number in range(20)]


@pytest.fixture
async def killed(tmp_path: Path) -> Path:
    """The files that a process leaves behind that is killed while the spool is open."""
    async with opened(tmp_path / "living") as spool:
        for each in SENT:
            await spool.journal(each)
        shutil.copytree(tmp_path / "living", tmp_path / "killed", ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    (tmp_path / "killed").chmod(0o700)
    return tmp_path / "killed"


def flip(folder: Path, *places: int) -> None:
    log = bytearray((folder / LOG).read_bytes())
    for place in places:
        log[place] ^= 1 << place % 8
    (folder / LOG).write_bytes(log)


def damaged_logs(folder: Path) -> list[Path]:
    return list(folder.glob("*.corrupt-*-wal"))


def frames_of(folder: Path) -> int:
    return ((folder / LOG).stat().st_size - HEADER) // (FRAME + PAGE)


@pytest.mark.parametrize("place", range(0, HEADER, 2))
async def test_a_bit_of_its_header_that_flipped_loses_no_record(killed: Path, place: int) -> None:
    flip(killed, place)
    assert await found_in(killed) == SENT
    assert len(damaged_logs(killed)) == 1


@pytest.mark.parametrize("place", [1, 6, 9, 14, 17, 21, FRAME, FRAME + 100, FRAME + PAGE - 8], ids=str)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
async def test_a_bit_of_a_frame_that_flipped_loses_no_record(killed: Path, where: str, place: int) -> None:
    frames = frames_of(killed)
    number = {"first": 0, "middle": frames // 2, "last": frames - 1}[where]
    flip(killed, HEADER + number * (FRAME + PAGE) + place)
    assert await found_in(killed) == SENT
    assert len(damaged_logs(killed)) == 1


async def test_of_a_page_with_several_wrong_bits_the_records_of_all_others_are_kept(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # the last page but one, in the middle of a text
    start = HEADER + (frames_of(killed) - 2) * (FRAME + PAGE) + FRAME
    flip(killed, *range(start + PAGE - 600, start + PAGE - 300, 7))
    found = await found_in(killed)
    assert all(each in SENT for each in found)
    assert len(found) >= len(SENT) - 3
    assert "1 pages of it were mended, 0 are left out" in caplog.text


@pytest.mark.slow
async def test_wherever_bits_flip_nothing_is_replayed_that_was_not_put(killed: Path, tmp_path: Path) -> None:
    draw = random.Random(7)  # noqa: S311 -- a seed, so that each run flips the same
    size = (killed / LOG).stat().st_size
    for number in range(25):
        folder = tmp_path / f"copy-{number}"
        shutil.copytree(killed, folder)
        flip(folder, *(draw.randrange(size) for _ in range(4)))
        assert all(each in SENT for each in await found_in(folder))


async def test_a_commit_that_was_not_written_to_its_end_is_left_out_and_is_no_damage(killed: Path) -> None:
    log = (killed / LOG).read_bytes()
    (killed / LOG).write_bytes(log[: -PAGE // 2])
    assert await found_in(killed) == SENT[:-1]
    assert damaged_logs(killed) == []


async def test_a_sound_log_is_left_alone(killed: Path) -> None:
    assert _log.mended_log((killed / LOG).read_bytes()) is None
    assert await found_in(killed) == SENT


async def test_what_is_no_log_is_left_alone(killed: Path) -> None:
    (killed / LOG).write_bytes(b"x" * 10_000)
    await found_in(killed)
    assert damaged_logs(killed) == []


async def test_the_log_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "spool") as spool:
        await spool.put(SENT)
        flip(tmp_path / "spool", HEADER + FRAME + 50)
        second = Spool(tmp_path / "spool")
        await second.open()
        assert damaged_logs(tmp_path / "spool") == []
        await second.aclose()

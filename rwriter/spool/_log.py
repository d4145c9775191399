"""Mends SQLite's write-ahead log before SQLite reads it, which leaves out all that follows the first wrong checksum.

Each frame of the log is a page with a header: page number, commit mark, two salts, and two sums over everything up to
there, which begin with those of the frame before. So a frame behind a damaged one can be checked by the sums that the
damaged one has written down, and one wrong bit can be found: the sums are linear in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

log = logging.getLogger("rwriter")

LARGEST: Final = 256 * 1024 * 1024
"""Bytes of a log that is looked at: the sums of a megabyte take about 50 ms."""

_HEADER, _FRAME, _SUMMED, _SUMS = 32, 24, 8, 8
_MAGIC: Final = 0x377F0682
_VERSION: Final = 3_007_000
_PAGES: Final = {1 << exponent for exponent in range(9, 17)}
_NATIVE, _OTHER = ("<", ">") if sys.byteorder == "little" else (">", "<")
# SQLite's lock for as long as a process has the log open
_OPEN_LOCK: Final = 128
_MASK: Final = 0xFFFFFFFF

Sums = tuple[int, int]


class Frame(NamedTuple):
    """A frame of the log: ``summed`` is what the sums are over, the page's number and the page."""

    salts: bytes
    sums: Sums
    summed: bytes


class Mended(NamedTuple):
    """The log as it is to be, how many of its frames were damaged, and how many at its end cannot be kept."""

    log: bytes
    damaged: int
    lost: int


def mend(file: Path) -> None:
    """Mend the log beside the SQLite database ``file``, unless a process has it open. The damaged log is kept."""
    path = file.with_name(f"{file.name}-wal")
    if not path.exists() or not _HEADER < path.stat().st_size <= LARGEST:
        return
    with _alone(file) as alone:
        if not alone:
            return
        mended = mended_log(path.read_bytes())
        if mended is None:
            return
        aside = file.with_name(f"{file.name}.corrupt-{time.time_ns()}-wal")
        path.rename(aside)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as new:
            new.write(mended.log)
            new.flush()
            os.fsync(new.fileno())
    log.error(
        "the log of the spool %s was damaged: kept as %s; %d pages of it were mended, %d are left out",
        file, aside.name, mended.damaged, mended.lost,
    )  # fmt: skip


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[bool]:
    """Keep others from opening the log, and give True, unless a process has it open."""
    try:
        lock = os.open(file.with_name(f"{file.name}-shm"), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _OPEN_LOCK)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)


def mended_log(found: bytes) -> Mended | None:
    """Return the log with right sums throughout, or ``None`` for one that is sound, or is no log at all."""
    for words in (_NATIVE, _OTHER):
        header = _header(words, found)
        if header is not None:
            (page,) = struct.unpack_from(">I", header, 8)
            mended = _with_right_sums(words, header, list(_frames(found, page)))
            return mended if mended.damaged or header != found[:_HEADER] else None
    return None


def _header(words: str, found: bytes) -> bytes | None:
    """Return the log's header as it was, or ``None`` if that cannot be told."""
    head, right = found[: _HEADER - _SUMS], _pair(found, _HEADER - _SUMS)
    sums = sums_of(words, head)
    if sums != right:
        mended = with_one_bit_changed(words, head, sums, right)
        if mended is None or mended[16:] != found[_HEADER + _SUMMED : _HEADER + _FRAME - _SUMS]:
            # the sums alone are wrong: as they are told, the salts would not be those of the frames
            right = sums
        else:
            head = mended
    magic, version, page = struct.unpack_from(">3I", head)
    sound = magic == _MAGIC | (words == ">") and version == _VERSION and page in _PAGES
    return head + struct.pack(">2I", *right) if sound else None


def _frames(found: bytes, page: int) -> Iterator[Frame]:
    for start in range(_HEADER, len(found) - _FRAME - page + 1, _FRAME + page):
        head = found[start : start + _FRAME]
        yield Frame(head[8:16], _pair(head, 16), head[:_SUMMED] + found[start + _FRAME : start + _FRAME + page])


def _with_right_sums(words: str, header: bytes, frames: list[Frame]) -> Mended:
    salts = header[16:24]
    written: list[bytes] = [header]
    damaged = 0
    # of the frame before: as they were, and as they are
    before = sums = _pair(header, _HEADER - _SUMS)
    for number, frame in enumerate(frames):
        summed, reckoned = frame.summed, sums_of(words, frame.summed, before)
        if reckoned != frame.sums or frame.salts != salts:
            whole = _whole(words, frames[number : number + 2], before, salts)
            if whole is None:
                break
            damaged += 1
            summed, reckoned = whole
        before, sums = reckoned, sums_of(words, summed, sums)
        written.append(summed[:_SUMMED] + salts + struct.pack(">2I", *sums) + summed[_SUMMED:])
    lost = sum(frame.salts == salts for frame in frames[len(written) - 1 :])
    return Mended(b"".join(written), damaged, lost)


def _whole(words: str, frames: list[Frame], before: Sums, salts: bytes) -> tuple[bytes, Sums] | None:
    """Return the first of ``frames`` as it was, as far as can be told, and its sums as they were.

    ``None``: the log ends before it. Behind its end lie frames of earlier logs, with other salts, or of a commit that a
    power cut kept from being written.
    """
    frame, *following = frames
    reckoned = sums_of(words, frame.summed, before)
    if reckoned == frame.sums:
        return frame.summed, frame.sums
    if frame.salts != salts:
        return None
    follows = {sums for behind in following for sums in (reckoned, frame.sums) if _follows(words, behind, sums)}
    if reckoned in follows or (not follows and _one_bit_apart(reckoned, frame.sums)):
        # The sums alone are wrong. With no frame behind, a bit of the page's last word looks the same: its row's own
        # checksum tells.
        return frame.summed, reckoned
    one_bit = with_one_bit_changed(words, frame.summed, reckoned, frame.sums)
    if one_bit is not None:
        return one_bit, frame.sums
    return (frame.summed, frame.sums) if follows else None


def _follows(words: str, behind: Frame, sums: Sums) -> bool:
    return sums_of(words, behind.summed, sums) == behind.sums


def _one_bit_apart(one: Sums, other: Sums) -> bool:
    return sum((mine ^ theirs).bit_count() for mine, theirs in zip(one, other, strict=True)) == 1


def _pair(data: bytes, offset: int) -> Sums:
    first, second = struct.unpack_from(">2I", data, offset)
    return first, second


def sums_of(words: str, data: bytes, before: Sums = (0, 0)) -> Sums:
    """Return the sums over ``data``, whose words are little or big endian (``<``, ``>``)."""
    first, second = before
    numbers = iter(struct.unpack(f"{words}{len(data) // 4}I", data))
    for even, odd in zip(numbers, numbers, strict=True):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return first, second


def with_one_bit_changed(words: str, data: bytes, sums: Sums, right: Sums) -> bytes | None:
    """Return ``data`` with the one bit changed that makes its sums ``right``, if there is such a bit."""
    wanted = (right[0] - sums[0]) & _MASK, (right[1] - sums[1]) & _MASK
    numbers = list(struct.unpack(f"{words}{len(data) // 4}I", data))
    # how much a word adds to both sums at the end, from the last pair of words to the first
    even, odd = (1, 1), (0, 1)
    for place in range(len(numbers) - 2, -1, -2):
        for at, (first, second) in ((place, even), (place + 1, odd)):
            for bit in range(32):
                change = -(1 << bit) if numbers[at] >> bit & 1 else 1 << bit
                if (first * change & _MASK, second * change & _MASK) == wanted:
                    numbers[at] ^= 1 << bit
                    return struct.pack(f"{words}{len(numbers)}I", *numbers)
        even, odd = _one_pair_earlier(even), _one_pair_earlier(odd)
    return None


def _one_pair_earlier(factors: Sums) -> Sums:
    first, second = factors
    return (first + second) & _MASK, (first + 2 * second) & _MASK

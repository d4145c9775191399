"""Entries that wait beside the spool survive whatever the disk does to the file they are in."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwriter._chain.entries import Head, new_writer_id
from rwriter._chain.secret import current_key
from rwriter.ledger._outbox import Outbox, left_in


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_a_full_disk_cut_short_is_written_anew(tmp_path: Path) -> None:
    head, key = Head(new_writer_id()), current_key()
    first = head.followed_by(key, "opened", account={"name": "a"})
    second = head.after(first).followed_by(key, "heartbeat", account={"name": "b"})
    outbox = Outbox(head.lane, tmp_path)
    outbox.put(first)
    outbox.keep()
    (path,) = tmp_path.iterdir()
    outbox.put(second)
    whole = path.stat().st_size
    with no_file_longer_than(whole + 20), pytest.raises(OSError, match="too large"):
        outbox.keep()
    assert path.stat().st_size == whole + 20
    assert outbox.has_work
    outbox.keep()
    outbox.release()
    (left,) = left_in(tmp_path)
    assert left.entries == [first, second]
    left.release()

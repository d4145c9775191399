"""An owner's rows are removed beside readers and writers of the same file, and after one that failed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwriter.spool._forget import forget


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the two tables that are looked through, a row in each and one that is no bytes."""
    made = tmp_path / "records.sqlite"
    with connected(made) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for table in ("records", "set_aside"):
            db.execute(f"CREATE TABLE {table} (seq INTEGER PRIMARY KEY, payload BLOB)")
            db.execute(f"INSERT INTO {table} (payload) VALUES (?), (?), ('no bytes')", (b"theirs", b"another's"))
    return made


@contextlib.contextmanager
def connected(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as db:
        yield db


def payloads(db: sqlite3.Connection) -> list[object]:
    return [row[0] for row in db.execute("SELECT payload FROM records UNION ALL SELECT payload FROM set_aside")]


def is_theirs(payload: bytes) -> bool:
    return payload == b"theirs"


def test_rows_of_both_tables_go_and_what_is_no_payload_stays(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with connected(file) as db:
        assert forget(db, file.parent, is_theirs) == 2
        assert payloads(db) == [b"another's", "no bytes"] * 2
    assert b"theirs" not in file.read_bytes()
    assert caplog.text == ""


def test_when_a_row_cannot_be_looked_at_none_is_deleted(file: Path) -> None:
    def fail(_payload: bytes) -> bool:
        raise MemoryError

    with connected(file) as db:
        before = payloads(db)
        with pytest.raises(MemoryError):
            forget(db, file.parent, fail)
        assert not db.in_transaction
        assert payloads(db) == before


def test_when_the_file_is_locked_the_error_is_the_locks_own(file: Path) -> None:
    with connected(file) as db, connected(file) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            forget(db, file.parent, is_theirs)


def test_beside_a_reader_it_is_said_that_the_rows_can_still_be_read(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(file) as db, connected(file) as other:
        other.execute("BEGIN")
        before = payloads(other)
        assert forget(db, file.parent, is_theirs) == 2
        assert payloads(other) == before
    assert "can still be read from its file" in caplog.text


def test_a_file_that_cannot_be_rewritten_is_told_of_with_the_reason(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def authorize(action: int, *_: str | None) -> int:
        # VACUUM writes to a second file, which it attaches
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK

    with connected(file) as db:
        db.set_authorizer(authorize)
        assert forget(db, file.parent, is_theirs) == 2
    assert "can still be read from its file" in caplog.text
    assert "another process" not in caplog.text

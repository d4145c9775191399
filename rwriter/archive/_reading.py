"""Reads cuts: an owner's row groups, the row with an id, and all of a cut to verify it. Its calls block."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rwriter.archive._layout import BY_ID, DIGESTED, NAMES, CutFile, digest_text, named_key, row_digest
from rwriter.archive._place import Place
from rwriter.errors import ArchiveDamaged

FOOTERS: Final = 32 * 1024 * 1024
"""Bytes of footers that are kept: the footer of a cut is read before any of its rows."""

_OWNER_AT: Final = NAMES.index("created_by")
_CREATED_AT: Final = NAMES.index("created_at")


class Cuts:
    """Opens the cuts of one archive. Files never change under a name, so their footers are kept."""

    def __init__(self, place: Place) -> None:
        self.place: Final = place
        self._footers: Final[OrderedDict[str, pq.FileMetaData]] = OrderedDict()
        self._lock: Final = threading.Lock()

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file. Raises ``FileNotFoundError`` where it is gone: its manifest was replaced."""
        with self.place.reading(path) as file:
            with self._lock:
                footer = self._footers.get(path)
            found = pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)
            if footer is None:
                self._keep(path, found.metadata)
            yield found

    def _keep(self, path: str, footer: pq.FileMetaData) -> None:
        with self._lock:
            self._footers[path] = footer
            while sum(each.serialized_size for each in self._footers.values()) > FOOTERS and len(self._footers) > 1:
                self._footers.popitem(last=False)


def groups_of(footer: pq.FileMetaData, owner: str | None) -> list[int]:
    """Return the row groups that may hold rows of ``owner``, in order; all of them for ``None``."""
    groups = range(footer.num_row_groups)
    return [group for group in groups if owner is None or _may_hold(footer, group, _OWNER_AT, owner, owner)]


def may_hold_times(footer: pq.FileMetaData, group: int, first: Any, last: Any) -> bool:
    """Return True unless all of a row group was created before ``first`` or after ``last``; ``None`` is no bound."""
    return _may_hold(footer, group, _CREATED_AT, first, last)


def rows_in(file: pq.ParquetFile, group: int, columns: Sequence[str], owner: str | None) -> pa.Table:
    """Return the columns of a row group's rows, ``created_by`` among them: the owner's, or everybody's."""
    wanted = list(dict.fromkeys(["created_by", *columns]))
    table = file.read_row_group(group, columns=wanted, use_threads=False)
    return table if owner is None else table.filter(pc.equal(table["created_by"], owner))


def row_by_key(cuts: Cuts, cut: CutFile, kind: int, key: bytes, owner: str | None) -> dict[str, Any] | None:
    """Return the row that the index of a cut has under ``key``, the newest where there are several."""
    groups = _indexed(cuts, cut, kind, key)
    if not groups:
        return None
    with cuts.open(cut.path) as file:
        for group in sorted(groups):
            found = _matching(file, group, kind, key, owner)
            if found is not None:
                return found
    return None


def verify(cuts: Cuts, cut: CutFile) -> int:
    """Read all of a cut and its index. Returns the sum of its digests; raises ``ArchiveDamaged`` naming the file."""
    try:
        rows, total, ids = _digested(cuts, cut.path)
        indexed = _indexed_ids(cuts, cut.index)
    except (OSError, pa.ArrowException) as exc:
        raise ArchiveDamaged(f"{cut.path}, or the index beside it, cannot be read back: {_reason(exc)}") from exc
    if (rows, digest_text([total])) != (cut.rows, cut.digest):
        raise ArchiveDamaged(f"{cut.path} holds {rows} rows that are not the {cut.rows} that were written to it")
    if indexed != ids:
        raise ArchiveDamaged(f"{cut.index} is not the index of {cut.path}")
    return total


def _digested(cuts: Cuts, path: str) -> tuple[int, int, int]:
    rows = total = ids = 0
    with cuts.open(path) as file:
        for group in range(file.metadata.num_row_groups):
            # every column, whose pages have checksums, though the digest is of some
            table = file.read_row_group(group, use_threads=False)
            rows += table.num_rows
            for row in zip(*(table[name].to_pylist() for name in DIGESTED), strict=True):
                total += row_digest(row)
                ids += row[0].int * (group + 1)
    return rows, total, ids


def _indexed_ids(cuts: Cuts, path: str) -> int:
    ids = 0
    with cuts.open(path) as file:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            table = table.filter(pc.equal(table["kind"], BY_ID))
            for key, row_group in zip(table["key"].to_pylist(), table["row_group"].to_pylist(), strict=True):
                ids += int.from_bytes(key) * (row_group + 1)
    return ids


def _indexed(cuts: Cuts, cut: CutFile, kind: int, key: bytes) -> set[int]:
    found: set[int] = set()
    with cuts.open(cut.index) as file:
        for group in range(file.metadata.num_row_groups):
            if _may_hold(file.metadata, group, 0, kind, kind) and _may_hold(file.metadata, group, 1, key, key):
                table = file.read_row_group(group, columns=["key", "row_group"], use_threads=False)
                found |= set(
                    table.filter(pc.equal(table["key"], pa.scalar(key, pa.binary(16))))["row_group"].to_pylist()
                )
    return found


def _matching(file: pq.ParquetFile, group: int, kind: int, key: bytes, owner: str | None) -> dict[str, Any] | None:
    """Return the first row of a row group that has the key: rows of an owner are newest first."""
    names = ["id"] if kind == BY_ID else ["custom_id", "first_id"]
    heads = file.read_row_group(group, columns=["created_by", *names], use_threads=False)
    owners = heads["created_by"].to_pylist()
    columns = [heads[name].to_pylist() for name in names]
    for place, holder in enumerate(owners):
        values = [column[place] for column in columns if column[place] is not None]
        keys = [value.bytes if kind == BY_ID else named_key(holder, value) for value in values]
        if owner in (None, holder) and key in keys:
            row: dict[str, Any] = file.read_row_group(group, use_threads=False).slice(place, 1).to_pylist()[0]
            return row
    return None


def _may_hold(footer: pq.FileMetaData, group: int, column: int, first: Any, last: Any) -> bool:
    statistics = footer.row_group(group).column(column).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return (last is None or statistics.min <= last) and (first is None or first <= statistics.max)


def _reason(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]

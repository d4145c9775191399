"""Sums an archive up, as ``RequestStore.usage`` sums up the tables: from narrow columns alone. Its calls block."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from rwriter._validation import aware, one_of
from rwriter.archive._layout import TIME, CutFile, Manifest
from rwriter.archive._reading import Cuts, groups_of, may_hold_times, rows_in
from rwriter.store import UsageRow

_TOKENS: Final = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
_TIMES: Final = ("started_at", "completed_at", "failed_at", "first_token_at")
_PERCENTILES: Final = {"p50": 0.5, "p95": 0.95}
_GROUPS: Final = ("day", "hour", "model", "created_by", "status", "service_tier")
_EVERYTHING: Final = "everything"
_COLUMNS: Final = ("created_at", "created_by", "model", "status", "service_tier", *_TOKENS, *_TIMES)


def usage(
    cuts: Cuts, listed: Mapping[str, Manifest], owner: str | None, since: datetime, until: datetime, by: Sequence[str]
) -> list[UsageRow]:
    """Return the groups in order. It keeps two numbers of each request in the window, for the percentiles."""
    names = tuple(dict.fromkeys(by))
    groups: dict[tuple[Any, ...], _Group] = {}
    for table in _tables(cuts, listed, owner, since, until):
        for row in _summed(table, names):
            key = tuple(_plain(row[name]) for name in names)
            groups.setdefault(key, _Group()).add(row)
    if not names and not groups:
        groups[()] = _Group()
    # a group without a tier comes last, as in the database
    order = sorted(groups, key=lambda key: [(value is None, value) for value in key])
    return [groups[key].row(dict(zip(names, key, strict=True))) for key in order]


def check(since: datetime, until: datetime, by: Sequence[str]) -> None:
    """Raise ``ValueError`` or ``TypeError`` for what ``RequestStore.usage`` refuses."""
    aware("since", since)
    aware("until", until)
    if isinstance(by, str):
        raise TypeError("by must be a sequence of names, not one string")
    for name in by:
        one_of("by", name, _GROUPS)


class _Group:
    """The numbers of one group."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("requests", "failed", *_TOKENS), 0)
        self._times = {"duration": array("d"), "first_token": array("d")}

    def add(self, row: Mapping[str, Any]) -> None:
        for name in self._counts:
            self._counts[name] += row[name] or 0
        for name, times in self._times.items():
            times.extend(time for time in row[name] if time is not None)

    def row(self, key: Mapping[str, Any]) -> UsageRow:
        times: dict[str, float | None] = {}
        for name, values in self._times.items():
            ordered = sorted(values)
            times |= {f"{name}_{which}_ms": _at(ordered, share) for which, share in _PERCENTILES.items()}
        fields: dict[str, Any] = {**self._counts, **times, **key}
        if "day" in fields:
            fields["day"] = fields["day"].date()
        return UsageRow(**fields)


def _at(ordered: Sequence[float], share: float) -> float | None:
    """Return a percentile as PostgreSQL's ``percentile_cont`` does: between two values, in proportion."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return round(ordered[low] + (ordered[high] - ordered[low]) * (place - low), 3)


def _tables(
    cuts: Cuts, listed: Mapping[str, Manifest], owner: str | None, since: datetime, until: datetime
) -> Iterator[pa.Table]:
    for file in _files(listed, owner):
        if file.created_last < since or file.created_first >= until:
            continue
        with cuts.open(file.path) as opened:
            for group in groups_of(opened.metadata, owner):
                if may_hold_times(opened.metadata, group, since, until):
                    table = rows_in(opened, group, _COLUMNS, owner)
                    after = pc.greater_equal(table["created_at"], pa.scalar(since, TIME))
                    yield table.filter(pc.and_(after, pc.less(table["created_at"], pa.scalar(until, TIME))))


def _files(listed: Mapping[str, Manifest], owner: str | None) -> Iterator[CutFile]:
    for manifest in listed.values():
        file = None if owner is None else manifest.file_of(owner)
        yield from manifest.files if owner is None else [] if file is None else [file]


def _summed(table: pa.Table, names: Sequence[str]) -> list[dict[str, Any]]:
    columns = {name: table[name] for name in names if name in table.column_names}
    for name in ("day", "hour"):
        if name in names:
            columns[name] = pc.floor_temporal(table["created_at"], unit=name)
    # "list" needs a key: without a name, all rows are one group
    columns[_EVERYTHING] = pa.repeat(0, table.num_rows)
    columns |= {name: table[name] for name in _TOKENS}
    columns["failed"] = pc.cast(pc.equal(table["status"], "failed"), pa.int64())
    ended = pc.coalesce(table["completed_at"], table["failed_at"])
    columns["duration"] = _milliseconds(table["started_at"], ended)
    columns["first_token"] = _milliseconds(table["started_at"], table["first_token_at"])
    sums = [(name, "sum") for name in ("failed", *_TOKENS)] + [(name, "list") for name in ("duration", "first_token")]
    grouped = pa.table(columns).group_by([_EVERYTHING, *names], use_threads=False).aggregate([([], "count_all"), *sums])
    ends = {"count_all": "requests"} | {f"{name}_{how}": name for name, how in sums}
    return grouped.rename_columns([ends.get(name, name) for name in grouped.column_names]).to_pylist()  # type: ignore[no-any-return]  # of an untyped library


def _milliseconds(start: Any, end: Any) -> Any:
    return pc.divide(pc.cast(pc.microseconds_between(start, end), pa.float64()), 1000.0)


def _plain(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value

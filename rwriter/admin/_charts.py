"""Lays out the rows of ``usage`` as a table with bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from rwriter.store import UsageRow

MOST: Final = 200
"""Groups that a page shows: the latest in time, or those with most requests."""

WIDTH: Final = 240
"""Length of the longest bar, in the chart's own unit."""


class Bar(NamedTuple):
    """A row of the table: the name of its group, and how long its bars are."""

    name: str
    row: UsageRow
    done: float
    failed: float
    tokens: float


class Chart(NamedTuple):
    """The table: its rows, its totals, and how many groups it leaves out."""

    bars: list[Bar]
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    left_out: int


def chart(rows: Sequence[UsageRow], by: Sequence[str]) -> Chart:
    """Return the table of ``rows``, which were grouped ``by`` these names."""
    in_time = by[0] in {"day", "hour"}
    shown = list(rows) if in_time else sorted(rows, key=lambda row: row.requests, reverse=True)
    shown = shown[-MOST:] if in_time else shown[:MOST]
    most = max((row.requests for row in shown), default=0) or 1
    most_tokens = max((_tokens(row) for row in shown), default=0) or 1
    return Chart(
        bars=[_bar(row, by, most, most_tokens) for row in shown],
        requests=sum(row.requests for row in rows),
        failed=sum(row.failed for row in rows),
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        left_out=len(rows) - len(shown),
    )


def _bar(row: UsageRow, by: Sequence[str], most: int, most_tokens: int) -> Bar:
    return Bar(
        name=" · ".join(_named(getattr(row, name)) for name in by),
        row=row,
        done=round((row.requests - row.failed) / most * WIDTH, 1),
        failed=round(row.failed / most * WIDTH, 1),
        tokens=round(_tokens(row) / most_tokens * WIDTH, 1),
    )


def _named(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return "none" if value is None else str(value)


def _tokens(row: UsageRow) -> int:
    return row.input_tokens + row.output_tokens

"""Prints tables and records, for people and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from rwriter._values.escape import escape, escape_json
from rwriter.errors import RwriterError
from rwriter.records import CompletedRequest, to_builtins

CUT: Final = 200
"""Characters of a body that ``print_record`` prints, unless asked for whole bodies."""


def row_of(item: msgspec.Struct, since: float) -> dict[str, Any]:
    """Return the fields of ``item`` with its ``age``: whole seconds since the time ``since``."""
    return {**msgspec.to_builtins(item), "age": round(time.time() - since)}


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, json: bool) -> None:
    """Print the ``columns`` of ``rows``, aligned under their names or as a JSON array."""
    if json:
        click.echo(to_json([{name: row[name] for name in columns} for row in rows]))
        return
    table = [[escape(str("" if row[name] is None else row[name])) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in [list(columns), *table]) for index in range(len(columns))]
    for line in [[name.upper() for name in columns], *table]:
        click.echo(_line(line, widths))


def print_record(record: CompletedRequest | None, name: str, *, bodies: bool, json: bool) -> None:
    """Print ``record``, its bodies cut unless ``bodies``; raises ``RwriterError`` with ``name`` for a missing one."""
    if record is None:
        msg = f"there is no {name}"
        raise RwriterError(msg)
    print_fields(to_builtins(record), cut=() if bodies else ("request_body", "response_body"), json=json)


def print_fields(shown: dict[str, Any], *, cut: Sequence[str], json: bool) -> None:
    """Print a line for each field, the texts of those named in ``cut`` cut."""
    for field in cut:
        if isinstance(shown[field], str) and len(shown[field]) > CUT:
            shown[field] = shown[field][:CUT] + "…"
    if json:
        click.echo(to_json(shown))
        return
    for field, value in shown.items():
        click.echo(f"{field:14} {escape(str(value))}")


def to_json(value: object) -> str:
    """Return ``value`` as compact JSON that a terminal can show."""
    return escape_json(msgspec.json.encode(value).decode())


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

"""The end of the year: the account, the rows, the sizes and the usage, beside what they must be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from examples.year.book import FATES, Book
from examples.year.traffic import SUBJECT, WEEK, Calendar, marker
from rwriter import RequestStore
from rwriter.store import DeadLetters

_ROWS: Final = text("SELECT count(*), coalesce(sum(response_size), 0)::bigint FROM requests WHERE created_by <> ''")
_TEMPLATES: Final = text("SELECT count(*), coalesce(sum(body_byte_size), 0)::bigint FROM request_templates")
_EMPTY: Final = text("SELECT count(*) FROM requests WHERE created_by <> '' AND response_body = ''")
# what began after the erasure may be there
_MARKED: Final = text(
    """
    SELECT (SELECT count(*) FROM requests r WHERE r.created_at < now() AND position(:mark IN r::text) > 0)
        + (SELECT count(*) FROM request_templates t WHERE position(:mark IN t::text) > 0
           AND NOT EXISTS (SELECT FROM requests r WHERE r.template_id = t.id AND r.created_at > now()))
        + (SELECT count(*) FROM dead_letters WHERE position(convert_to(:mark, 'UTF8') IN payload) > 0)
    """
)


class Line(NamedTuple):
    """One thing that must add up."""

    what: str
    expected: Any
    found: Any

    @property
    def adds_up(self) -> bool:
        """True where what was found is what was expected."""
        return bool(self.expected == self.found)


async def lines(book: Book, calendar: Calendar, engine: AsyncEngine) -> list[Line]:
    """Compare the book with the database."""
    records = book.rows.values()
    async with engine.connect() as connection:
        number, answered = (await connection.execute(_ROWS)).one()
        templates, asked = (await connection.execute(_TEMPLATES)).one()
        empty = await connection.scalar(_EMPTY)
        marked = await connection.scalar(_MARKED, {"mark": marker(SUBJECT)})
    return [
        *_account(book),
        Line("rows", len(book.rows), number),
        Line("templates", len(book.rows), templates),
        Line("rows without bodies", len(book.empty), empty),
        Line("bytes answered", sum(len(record.response_body.encode()) for record in records), answered),
        Line("bytes asked", sum(len(record.request_body.encode()) for record in records), asked),
        Line("usage by model", _expected_usage(book), await _usage(calendar, engine)),
        Line("dead letters", 0, len(await DeadLetters(engine).listing())),
        Line("marks of the erased owner in the database", 0, marked),
        Line("marks of the erased owner in the spool's files", 0, book.marks_in_spool),
    ]


def _account(book: Book) -> list[Line]:
    account, expected = book.account, book.expected
    return [
        Line("accepted", expected["accepted"], account["accepted"]),
        Line("accepted, by its fates", account["accepted"], sum(account[fate] for fate in FATES)),
        *(Line(fate, expected[fate], account[fate]) for fate in ("skipped", "dead", "dropped", "pending")),
        Line("replayed of what was spooled", account["spooled"], account["replayed"]),
    ]


def _expected_usage(book: Book) -> dict[str, tuple[int, int, int, int]]:
    sums: dict[str, Counter[str]] = {}
    for record in book.rows.values():
        of_model = sums.setdefault(record.model, Counter(requests=0, failed=0, asked=0, answered=0))
        of_model["requests"] += 1
        of_model["failed"] += not 200 <= record.status_code < 300  # noqa: PLR2004 -- statuses
        of_model["asked"] += record.input_tokens or 0
        of_model["answered"] += record.output_tokens or 0
    return {model: (s["requests"], s["failed"], s["asked"], s["answered"]) for model, s in sorted(sums.items())}


async def _usage(calendar: Calendar, engine: AsyncEngine) -> dict[str, tuple[int, int, int, int]]:
    since, until = calendar.start, calendar.begin(calendar.weeks) + WEEK
    rows = await RequestStore(engine).usage(since=since, until=until, by=("model",))
    found = {str(row.model): (row.requests, row.failed, row.input_tokens, row.output_tokens) for row in rows}
    return dict(sorted(found.items()))


def marks_in(folder: Path) -> int:
    """Count the erased owner's mark in the files of a folder."""
    mark = marker(SUBJECT).encode()
    return sum(path.read_bytes().count(mark) for path in folder.rglob("*") if path.is_file())

"""The simulated year adds up, and one that does not is told apart."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from examples.year.__main__ import main, printed
from examples.year.book import Book
from examples.year.check import lines
from examples.year.traffic import Calendar, id_at, week_of
from rwriter import RequestStore
from rwriter.schema import made_at
from rwriter.testing import TestDbEngines

CALENDAR = Calendar.around(datetime(2026, 6, 1, tzinfo=UTC), 8, 6)


@pytest.mark.slow
def test_a_short_year_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    # on plain tables too in `make year`, which is a part of `make test-all`
    assert main(["--weeks", "8", "--per-week", "12", "--tables", "partitioned"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("partitioned tables, 8 weeks of 12 requests")
    assert told.count("  ok  ") == 16
    assert "FAIL" not in told


async def test_a_row_too_few_and_a_fate_too_many_do_not_add_up(
    rwriter_engines: TestDbEngines, capsys: pytest.CaptureFixture[str]
) -> None:
    book, records = Book(), week_of(CALENDAR, 0)
    book.stored(records)
    await RequestStore(rwriter_engines).persist_completed(records[1:])
    book.account.update(accepted=6, persisted=7)
    book.expected.update(accepted=6)
    found = {line.what: line.adds_up for line in await lines(book, CALENDAR, rwriter_engines.read)}
    wrong = {"accepted, by its fates", "rows", "templates", "bytes answered", "bytes asked", "usage by model"}
    # nobody was erased
    wrong.add("marks of the erased owner in the database")
    assert {what for what, adds_up in found.items() if not adds_up} == wrong
    assert not printed(await lines(book, CALENDAR, rwriter_engines.read))
    assert capsys.readouterr().out.count("FAIL") == len(wrong)


def test_an_id_is_a_uuid7_of_its_moment() -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, 891_000, tzinfo=UTC)
    made = id_at(random.Random(1), moment)  # noqa: S311 -- no secret
    assert (made.version, made.variant, made_at(made)) == (7, "specified in RFC 4122", moment)

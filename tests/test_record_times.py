"""The times of a record: whatever zone they come from, they are instants in order."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwriter.records import decode_record, encode_record
from tests.support.records import record

TIMES: Final = ("started_at", "completed_at")
VIENNA: Final = ZoneInfo("Europe/Vienna")
# on this morning every time between two and three came twice
AUTUMN: Final = datetime(2024, 10, 27, 2, 30, tzinfo=VIENNA)


class NoOffset(tzinfo):
    """A zone that does not know its offset: its times are naive in all but name."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "nowhere"


class Stamp(datetime):
    """A datetime of another library, as pendulum's and pandas' are."""


@pytest.mark.parametrize("field", TIMES)
@pytest.mark.parametrize("naive", [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=NoOffset())])  # noqa: DTZ001
def test_a_naive_datetime_is_a_value_error_naming_the_field(field: str, naive: datetime) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be timezone-aware"):
        record(**{field: naive})


@pytest.mark.parametrize("field", TIMES)
@pytest.mark.parametrize("value", [None, "2026-01-01T00:00:00Z", 1.5, date(2026, 1, 1)], ids=repr)
def test_a_time_of_another_type_is_a_type_error_naming_the_field(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{field} must be a datetime, not {type(value).__name__}$"):
        record(**{field: value})


def test_an_end_before_the_start_is_taken_as_the_start() -> None:
    started = datetime(2026, 1, 1, 12, tzinfo=UTC)
    made = record(started_at=started, completed_at=started - timedelta(microseconds=1))
    assert made.completed_at == made.started_at == started
    elsewhere = datetime(2026, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    assert record(started_at=started, completed_at=elsewhere).completed_at == started


@pytest.mark.parametrize("zone", [VIENNA, timezone(timedelta(hours=-9, minutes=-30)), timezone(timedelta(seconds=1))])
def test_a_time_in_any_zone_keeps_its_instant(zone: tzinfo) -> None:
    started = datetime(2026, 7, 1, 1, 2, 3, 4, tzinfo=zone)
    made = record(started_at=started, completed_at=started + timedelta(seconds=5))
    assert made.started_at == started
    assert made.completed_at - made.started_at == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("started", "completed", "took"),
    [
        (AUTUMN, AUTUMN.replace(minute=1, fold=1), timedelta(minutes=31)),
        (AUTUMN.replace(fold=1), AUTUMN, timedelta(0)),
        (AUTUMN.replace(minute=1, fold=1), AUTUMN.replace(minute=59), timedelta(0)),
    ],
    ids=["over the change of the clocks", "an hour backwards", "backwards, forwards on the wall"],
)
def test_the_hour_that_comes_twice_is_measured_by_its_instants(
    started: datetime, completed: datetime, took: timedelta
) -> None:
    made = record(started_at=started, completed_at=completed)
    assert made.completed_at.astimezone(UTC) - made.started_at.astimezone(UTC) == took
    assert decode_record(encode_record(made)) == made


@pytest.mark.parametrize("field", TIMES)
def test_a_datetime_of_another_library_is_kept_as_a_plain_one(field: str) -> None:
    stamp = Stamp(2026, 1, 1, 1, 2, 3, 4, tzinfo=VIENNA)
    made = record(**{"started_at": stamp, "completed_at": stamp, field: stamp})
    assert type(getattr(made, field)) is datetime
    assert getattr(made, field) == stamp
    assert decode_record(encode_record(made)) == made


@pytest.mark.parametrize(
    "beyond",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    ],
    ids=["before year 1", "after year 9999"],
)
def test_an_instant_that_no_calendar_holds_is_a_value_error_naming_the_field(beyond: datetime) -> None:
    with pytest.raises(ValueError, match=r"^started_at must"):
        record(started_at=beyond, completed_at=beyond)


@settings(deadline=None, database=None)
@given(st.datetimes(timezones=st.timezones()), st.datetimes(timezones=st.timezones()))
def test_any_two_times_give_a_record_that_can_be_packed_or_an_error_naming_one(one: datetime, two: datetime) -> None:
    try:
        made = record(started_at=one, completed_at=two)
    except ValueError as exc:
        assert str(exc).startswith(TIMES)  # noqa: PT017 -- most examples raise nothing
        return
    assert decode_record(encode_record(made)) == made
    assert made.completed_at.astimezone(UTC) >= made.started_at.astimezone(UTC)

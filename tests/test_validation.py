"""The bounds of options: refused with the option's name and the value, NaN too."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from rwriter._validation import at_least, aware, between, one_of, positive


class Nowhere(tzinfo):
    """A zone that does not know its offset: a time in it is as good as naive."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None) -> None:
        return None


NAIVE = datetime(2026, 1, 5)  # noqa: DTZ001 -- what is refused


@pytest.mark.parametrize(
    "check",
    [
        lambda: at_least("x", 1, 1),
        lambda: between("x", 1, 1, 3),
        lambda: between("x", 3, 1, 3),
        lambda: positive("x", 0.1),
        lambda: positive("x", math.inf),
        lambda: positive("x", timedelta(microseconds=1)),
        lambda: aware("x", datetime.now(UTC)),
        lambda: one_of("x", "a", ("a", "b")),
    ],
)
def test_a_value_within_bounds_passes(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: at_least("x", 0, 1), "x must be at least 1, not 0"),
        (lambda: at_least("x", math.nan, 0), "x must be at least 0, not nan"),
        (lambda: between("x", 0, 1, 3), "x must be in 1..3, not 0"),
        (lambda: between("x", 4, 1, 3), "x must be in 1..3, not 4"),
        (lambda: between("x", math.nan, 1, 3), "x must be in 1..3, not nan"),
        (lambda: positive("x", 0), "x must be positive, not 0"),
        (lambda: positive("x", -0.5), "x must be positive, not -0.5"),
        (lambda: positive("x", math.nan), "x must be positive, not nan"),
        (lambda: positive("x", timedelta(0)), "x must be positive, not 0:00:00"),
        (lambda: aware("x", NAIVE), f"x must be timezone-aware, e.g. datetime.now(UTC), not {NAIVE!r}"),
        (lambda: one_of("x", "c", ("a", "b")), "x must be one of a, b, not 'c'"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(check: Callable[[], None], message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 -- the whole message is compared
        check()
    assert str(refused.value) == message


def test_a_zone_without_an_offset_is_no_zone() -> None:
    with pytest.raises(ValueError, match=r"^x must be timezone-aware"):
        aware("x", NAIVE.replace(tzinfo=Nowhere()))

"""usage: requests, tokens and times, grouped as asked, from the columns alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestStore, UsageRow, new_request_id
from tests.support.records import new_request, record
from tests.support.rows import in_state, insert_request

DAY = datetime(2026, 3, 4, tzinfo=UTC)
WEEK: dict[str, Any] = {"since": DAY - timedelta(days=3), "until": DAY + timedelta(days=4)}


def lasting(milliseconds: float, *, at: datetime = DAY, first: float | None = None, **changes: Any) -> dict[str, Any]:
    """Fields of a record that began ``at`` and took so long, its first byte after ``first`` milliseconds."""
    times: dict[str, Any] = {"started_at": at, "completed_at": at + timedelta(milliseconds=milliseconds)}
    if first is not None:
        times["first_token_at"] = at + timedelta(milliseconds=first)
    return times | changes


@pytest.mark.both_schemas("RequestStore.usage")
async def test_requests_tokens_and_times_are_summed_up_by_day_and_model(store: RequestStore) -> None:
    await store.persist_completed(
        [
            record(**lasting(100, first=10, input_tokens=1, output_tokens=20, cached_input_tokens=300)),
            record(**lasting(200, first=30, input_tokens=2, output_tokens=30, reasoning_tokens=4_000)),
            record(**lasting(500, status_code=500)),
            record(**lasting(700, model="other", input_tokens=2**31 - 1)),
            record(**lasting(700, model="other", input_tokens=2**31 - 1)),
            record(**lasting(40, at=DAY + timedelta(days=1))),
        ]
    )
    first, other, next_day = await store.usage(**WEEK)
    assert first == UsageRow(
        day=date(2026, 3, 4), model="gpt-test", requests=3, failed=1,
        input_tokens=3, output_tokens=50, cached_input_tokens=300, reasoning_tokens=4_000,
        duration_p50_ms=200, duration_p95_ms=470,
        first_token_p50_ms=20, first_token_p95_ms=29,
    )  # fmt: skip
    assert (other.model, other.requests, other.input_tokens) == ("other", 2, 2**32 - 2)
    assert (other.first_token_p50_ms, other.first_token_p95_ms) == (None, None)
    assert (next_day.day, next_day.requests, next_day.failed) == (date(2026, 3, 5), 1, 0)


async def test_any_columns_may_be_the_groups_and_their_order_is_that_of_the_rows(
    store: RequestStore, engine: AsyncEngine
) -> None:
    await store.persist_completed(
        [
            record(**lasting(1, at=DAY + timedelta(hours=5, minutes=59))),
            record(**lasting(1, at=DAY + timedelta(hours=5), created_by="tenant-b", status_code=503)),
        ]
    )
    await insert_request(engine, created_at=DAY, **in_state("completed"))  # tier flex, of tenant-d
    by = ("service_tier", "hour", "created_by", "status")
    found = [(row.service_tier, row.hour, row.created_by, row.status) for row in await store.usage(**WEEK, by=by)]
    five = DAY + timedelta(hours=5)
    assert found == [
        ("flex", DAY, "tenant-d", "completed"),
        ("priority", five, "tenant-a", "completed"),
        ("priority", five, "tenant-b", "failed"),
    ]
    (whole,) = await store.usage(**WEEK, by=())
    assert (whole.requests, whole.failed) == (3, 1)
    assert [getattr(whole, name) for name in (*by, "day", "model")] == [None] * 6


async def test_of_nothing_there_is_no_group_and_a_row_of_zeros_where_none_was_asked_for(store: RequestStore) -> None:
    assert await store.usage(**WEEK) == []
    (whole,) = await store.usage(**WEEK, by=[])
    assert (whole.requests, whole.input_tokens, whole.duration_p50_ms) == (0, 0, None)


async def test_an_owner_is_asked_for_as_records_name_it(store: RequestStore) -> None:
    await store.persist_completed([record(created_by=" a\0b ", **lasting(1)), record(**lasting(1))])
    (row,) = await store.usage(**WEEK, created_by=" a\0b ", by=["created_by"])
    assert (row.created_by, row.requests) == ("a\ufffdb", 1)


async def test_the_window_holds_its_first_instant_and_not_its_last(store: RequestStore) -> None:
    moments = [DAY - timedelta(microseconds=1), DAY, DAY + timedelta(hours=1)]
    await store.persist_completed([record(**lasting(1, at=moment)) for moment in moments])
    (row,) = await store.usage(since=moments[1], until=moments[2], by=["hour"])
    assert (row.hour, row.requests) == (DAY, 1)


async def test_days_are_those_of_utc_wherever_the_server_is(store: RequestStore, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.execute(text(f"ALTER DATABASE \"{name}\" SET timezone TO 'Asia/Tokyo'"))
    ends = [DAY, DAY + timedelta(hours=23, minutes=59, seconds=59.999999)]
    await store.persist_completed([record(**lasting(1, at=end)) for end in ends])
    (row,) = await store.usage(**WEEK, by=["day"])
    assert (row.day, row.requests) == (DAY.date(), 2)
    hours = [row.hour for row in await store.usage(**WEEK, by=["hour"])]
    assert hours == [DAY, DAY + timedelta(hours=23)]
    assert {hour.utcoffset() for hour in hours if hour is not None} == {timedelta(0)}


async def test_batches_and_the_remains_of_deletions_count_for_nobody(store: RequestStore, engine: AsyncEngine) -> None:
    new = new_request()
    await store.create_realtime(new)
    now: dict[str, Any] = {
        "since": datetime.now(UTC) - timedelta(hours=1),
        "until": datetime.now(UTC) + timedelta(hours=1),
    }
    (row,) = await store.usage(**now, by=["status"])
    assert (row.status, row.requests, row.duration_p50_ms) == ("processing", 1, None)
    await store.delete_request(new.request_id)
    await insert_request(engine, batch_id=new_request_id(), **in_state("completed"))
    assert await store.usage(**now) == []


async def test_no_body_is_read(store: RequestStore, engine: AsyncEngine) -> None:
    asked: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    await store.usage(**WEEK, created_by="tenant-a", by=["day", "hour", "model", "created_by", "status"])
    assert asked
    assert not any("body" in statement or "request_templates" in statement for statement in asked)


@pytest.mark.parametrize("wrong", [{"by": ["week"]}, {"since": datetime(2026, 1, 1)}])  # noqa: DTZ001 -- the mistake itself
async def test_what_cannot_be_asked_is_refused_by_name(store: RequestStore, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await store.usage(**(WEEK | wrong))


async def test_one_string_is_no_list_of_names(store: RequestStore) -> None:
    with pytest.raises(TypeError, match="by"):
        await store.usage(**WEEK, by="model")

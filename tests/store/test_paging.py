"""The listing page by page: order, cursors, counts, and rows that come and go meanwhile."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import DbEngines, InvalidCursor, RequestFilter, RequestStore
from rwriter.schema import STATES, requests
from rwriter.store import _listing
from tests.support.listing import INSTANTS, MODELS, OWNERS, TIERS, expected, fill, ids, walk
from tests.support.records import STARTED, record
from tests.support.rows import in_state, insert_request, quoted, rows

COUNT_TIMEOUT_MS = _listing.COUNT_TIMEOUT_MS
"""As shipped: a fixture raises it for the tests."""
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
async def filled(database: str, schema: str | None, engine: AsyncEngine) -> AsyncIterator[RequestStore]:
    """A pooled store over a table with rows of every kind."""
    await fill(engine)
    async with DbEngines.from_url(database, schema=schema) as engines:
        yield RequestStore(engines)


def some(*values: object) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(st.sampled_from(values), unique=True)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "created_by": st.sampled_from(OWNERS),
        "status": st.sampled_from(STATES),
        "models": some(*MODELS),
        "service_tiers": some(*TIERS),
        "created_after": st.sampled_from(INSTANTS),
        "created_before": st.sampled_from(INSTANTS),
        "active_first": st.booleans(),
    },
)


@EXAMPLES
@given(asked=FILTERS, limit=st.integers(3, 120))
@example(asked={"active_first": True}, limit=1)
async def test_pages_of_any_filter_hold_each_matching_row_once_and_in_order(
    filled: RequestStore, engine: AsyncEngine, asked: dict[str, Any], limit: int
) -> None:
    wanted = expected(await rows(engine, requests), RequestFilter(**asked))
    assert ids(await walk(filled, limit=limit, **asked)) == wanted


async def test_the_first_and_the_last_instant_of_python_are_listed_like_others(store: RequestStore) -> None:
    # a service's word for "unknown"; the driver makes -infinity and infinity of them, and naive datetimes of those
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    batch = [record(started_at=first, completed_at=STARTED), record(started_at=STARTED, completed_at=last), record()]
    batch += [record(started_at=last, completed_at=last), record(started_at=first, completed_at=first)]
    await store.persist_completed(batch)
    for stored in batch:
        assert await store.get_request(stored.request_id) is not None
    assert set(ids(await walk(store, limit=1))) == {stored.request_id for stored in batch}


@EXAMPLES
@given(asked=FILTERS, limit=st.integers(1, 20), offset=st.integers(0, 120))
async def test_offset_skips_that_many_rows_of_the_listing(
    filled: RequestStore, engine: AsyncEngine, asked: dict[str, Any], limit: int, offset: int
) -> None:
    wanted = expected(await rows(engine, requests), RequestFilter(**asked))
    page = await filled.list_requests(RequestFilter(limit=limit, offset=offset, **asked))
    assert ids(page) == wanted[offset : offset + limit]
    assert page.total_count == len(wanted)
    assert (page.next_cursor is None) == (offset + limit >= len(wanted))


@pytest.mark.parametrize("active_first", [False, True])
async def test_an_offset_past_everything_leads_to_an_empty_page(filled: RequestStore, active_first: bool) -> None:
    for offset in (1_000, 2**31, 2**40):
        page = await filled.list_requests(RequestFilter(active_first=active_first, offset=offset))
        assert (page.data, page.next_cursor) == ([], None)
        assert page.total_count > 0


@pytest.mark.parametrize("active_first", [False, True])
async def test_offset_counts_from_the_cursor(filled: RequestStore, engine: AsyncEngine, active_first: bool) -> None:
    asked = RequestFilter(limit=10, active_first=active_first)
    wanted = expected(await rows(engine, requests), asked)
    cursor = (await filled.list_requests(asked)).next_cursor
    page = await filled.list_requests(msgspec.structs.replace(asked, cursor=cursor, offset=45))
    assert ids(page) == wanted[55:65]


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.both_schemas("RequestStore.list_page")
async def test_the_page_across_the_border_of_active_and_finished_rows_is_continued(
    store: RequestStore, engine: AsyncEngine, limit: int
) -> None:
    # the finished rows are newer than the active ones, so that only their state puts them last
    active = [
        await insert_request(engine, **in_state(state), created_at=STARTED)
        for state in ("pending", "claimed", "processing")
    ]
    finished = [
        await insert_request(engine, **in_state(state), created_at=STARTED + timedelta(days=1))
        for state in ("completed", "failed", "canceled")
    ]
    found = ids(await walk(store, limit=limit, active_first=True))
    assert found == [*sorted(active, reverse=True), *sorted(finished, reverse=True)]


@pytest.mark.parametrize("active_first", [False, True])
async def test_rows_that_arrive_between_pages_hide_and_repeat_none_of_the_others(
    filled: RequestStore, engine: AsyncEngine, active_first: bool
) -> None:
    asked = RequestFilter(limit=7, active_first=active_first)
    wanted = expected(await rows(engine, requests), asked)
    found: list[uuid.UUID] = []
    newcomers: set[uuid.UUID] = set()
    page = await filled.list_requests(asked)
    while page.next_cursor is not None:
        found += ids(page)
        for instant in (INSTANTS[0], INSTANTS[2], STARTED - timedelta(days=1), STARTED + timedelta(days=1)):
            state = STATES[len(newcomers) % len(STATES)]
            newcomers.add(await insert_request(engine, **in_state(state), created_at=instant))
        page = await filled.list_requests(msgspec.structs.replace(asked, cursor=page.next_cursor))
        if len(newcomers) > 100:
            asked = msgspec.structs.replace(asked, limit=1000)
    found += ids(page)
    assert [each for each in found if each not in newcomers] == wanted
    assert len(set(found)) == len(found)


@pytest.mark.both_schemas("RequestStore.list_requests", "RequestStore.list_page")
async def test_the_total_is_of_all_pages_and_the_last_page_has_no_cursor(store: RequestStore) -> None:
    await store.persist_completed([record(started_at=STARTED + timedelta(seconds=n)) for n in range(4)])
    first = await store.list_requests(RequestFilter(limit=2))
    second = await store.list_requests(RequestFilter(limit=2, cursor=first.next_cursor))
    assert (first.total_count, second.total_count) == (4, 4)
    assert first.next_cursor is not None
    assert second.next_cursor is None


@pytest.mark.both_schemas("RequestStore.list_requests")
async def test_a_count_that_takes_too_long_becomes_the_planners_estimate(
    store: RequestStore, engine: AsyncEngine, schema: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 60_000
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f"INSERT INTO {quoted(schema)}.requests (model, created_by, state, canceled_at)"
            f" SELECT 'm' || mod(n, 2), 'tenant-' || mod(n, 4), 'canceled', now() FROM generate_series(1, {many}) n"
        )
        await connection.exec_driver_sql(f"ANALYZE {quoted(schema)}.requests")
    monkeypatch.setattr(_listing, "COUNT_TIMEOUT_MS", 1)
    for asked, share in (({}, 1), ({"created_by": "tenant-1"}, 4), ({"models": ["m0", "x"]}, 2)):
        page = await store.list_requests(RequestFilter(limit=3, **asked))
        assert page.total_is_estimate
        assert many / share * 0.5 < page.total_count < many / share * 2
        # the rows are exact all the same, and the connection is none the worse for the cancelled count
        assert len(page.data) == 3
        assert len((await store.list_requests(RequestFilter(limit=3, cursor=page.next_cursor, **asked))).data) == 3
    monkeypatch.setattr(_listing, "COUNT_TIMEOUT_MS", 60_000)
    small = await store.list_requests(RequestFilter(created_by="nobody"))
    assert (small.total_count, small.total_is_estimate) == (0, False)


def test_a_count_is_given_a_tenth_of_a_second() -> None:
    assert COUNT_TIMEOUT_MS == 100


async def opened(store: RequestStore, cursor: str) -> None:
    """List from ``cursor``: whatever it holds, nothing but ``InvalidCursor`` may come of it."""
    try:
        asked = [RequestFilter(cursor=cursor), RequestFilter(cursor=cursor, active_first=True)]
    except InvalidCursor:
        return
    for each in asked:
        await store.list_requests(each)


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).decode().rstrip("=")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
ZONES = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
NEARLY_RIGHT = st.tuples(st.booleans() | ANYTHING, st.datetimes(timezones=ZONES) | ANYTHING, st.uuids() | ANYTHING)


@EXAMPLES
@given(cursor=st.text(st.characters(exclude_categories=())) | st.binary().map(packed))
@example(cursor="")
@example(cursor="\ud800")
@example(cursor="é")
@example(cursor="A")
async def test_a_cursor_of_any_text_is_invalid_and_nothing_worse(filled: RequestStore, cursor: str) -> None:
    await opened(filled, cursor)


@EXAMPLES
@given(value=ANYTHING | NEARLY_RIGHT)
@example(value=[True, "2026-01-01T00:00:00", uuid.UUID(int=1)])
@example(value=[True, datetime.min.replace(tzinfo=timezone(timedelta(hours=14))).isoformat(), uuid.UUID(int=1)])
@example(value=[True, datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))).isoformat(), uuid.UUID(int=1)])
@example(value=[False, datetime.max.replace(tzinfo=UTC), uuid.UUID(int=1)])
@example(value=[False, datetime.min.replace(tzinfo=UTC), uuid.UUID(int=1)])
async def test_a_forged_cursor_is_invalid_and_nothing_worse(filled: RequestStore, value: Any) -> None:
    await opened(filled, packed(value))


def test_a_cursor_is_refused_where_the_filter_is_made() -> None:
    for cursor in ("", "x", "====", packed([1, 2, 3]), packed([True, STARTED]), "a b", "%00"):
        with pytest.raises(InvalidCursor):
            RequestFilter(cursor=cursor)


async def test_a_cursor_can_stand_in_a_url_as_it_is(filled: RequestStore) -> None:
    cursor = (await filled.list_requests(RequestFilter(limit=1))).next_cursor
    assert cursor is not None
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

"""Reads of partitioned tables find what those of plain tables would, by whatever time the id was made."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import IdRefused, RequestFilter, RequestStore
from rwriter.partitions import listing
from rwriter.store._listing import ID_SLACK, count_query, page_query
from tests.support.records import id_at, new_request, record

pytestmark = pytest.mark.costs

NOW = datetime.now(UTC)
WEEKS = 6


async def test_a_request_of_long_ago_with_an_id_of_today_is_listed_by_its_time(store: RequestStore) -> None:
    begun = NOW - timedelta(days=900)
    imported = record(started_at=begun, completed_at=begun)
    await store.persist_completed([imported])
    window = RequestFilter(created_after=begun - timedelta(days=1), created_before=begun + timedelta(days=1))
    assert [each.id for each in (await store.list_requests(window)).data] == [imported.request_id]


async def test_an_id_made_some_hours_before_its_request_began_is_listed_by_its_time(
    engine: AsyncEngine, store: RequestStore
) -> None:
    begun = (await listing(engine))[1].start
    early = record(request_id=id_at(begun - ID_SLACK), started_at=begun, completed_at=begun)
    await store.persist_completed([early])
    assert (await store.list_requests(RequestFilter(created_after=begun))).total_count == 1


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
async def test_a_window_may_begin_at_any_time(store: RequestStore, moment: datetime) -> None:
    await store.persist_completed([record()])
    expected = int(moment < NOW)
    assert (await store.list_requests(RequestFilter(created_after=moment))).total_count == expected


def test_every_parameter_of_a_bounded_statement_has_a_value_and_no_value_is_over() -> None:
    asked = RequestFilter(created_after=NOW)
    for query in (page_query, count_query):
        statement, parameters = query(asked, by_id=True)
        assert statement is not query(asked)[0]
        assert set(statement.compile(dialect=asyncpg.dialect()).binds) == set(parameters)  # type: ignore[no-untyped-call]  # the dialect's constructor has no types


@pytest.mark.parametrize("identity", [uuid.uuid4(), id_at(NOW - timedelta(days=900)), id_at(NOW + timedelta(days=900))])
async def test_a_request_that_no_partition_takes_cannot_begin(store: RequestStore, identity: uuid.UUID) -> None:
    with pytest.raises(IdRefused, match=f"{identity} is in none of the partitions"):
        await store.create_realtime(new_request(request_id=identity))

"""The plans that the server keeps for the flush's prepared statements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from sqlalchemy import text

from rwriter import DbEngines, RequestStore
from tests.support.counting import table_counters
from tests.support.driving import eventually
from tests.support.records import new_request, record

pytestmark = pytest.mark.costs

CUSTOM = 5
"""Executions that the server plans for their values before it compares."""


@pytest.fixture
async def engines(rwriter_database: str) -> AsyncIterator[DbEngines]:
    """One connection for every flush, so that its statements are prepared once."""
    async with DbEngines.from_url(rwriter_database, pool_size=1) as engines:
        yield engines


async def plans(engines: DbEngines) -> tuple[int, int]:
    """Return how many executions of the flush used the generic plan, and how many were planned anew."""
    query = (
        "SELECT sum(generic_plans)::int, sum(custom_plans)::int FROM pg_prepared_statements"
        " WHERE statement LIKE 'WITH v AS%'"
    )
    async with engines.write.connect() as connection:
        generic, custom = (await connection.execute(text(query))).one()
    return generic, custom


@pytest.mark.parametrize("facts", [{}, {"metadata": {"a": 1}}], ids=["plain", "with metadata"])
@pytest.mark.parametrize("sizes", [[1], [10], [100], [300, 1, 20]], ids=str)
async def test_a_flush_is_not_planned_anew_whatever_its_size(
    engines: DbEngines, sizes: Sequence[int], facts: dict[str, Any]
) -> None:
    store = RequestStore(engines)
    for number in range(30):
        await store.persist_completed([record(**facts) for _ in range(sizes[number % len(sizes)])])
    assert await plans(engines) == (30 - CUSTOM, CUSTOM)


async def test_metadata_of_begun_requests_finds_its_template_by_key_with_a_plan_made_on_empty_tables(
    engines: DbEngines,
) -> None:
    store = RequestStore(engines)
    for _ in range(2 * CUSTOM):
        await store.persist_completed([record(metadata={"a": 1})])
    given = [record(metadata={"a": number}) for number in range(20)]
    for each in given:
        await store.create_realtime(new_request(request_id=each.request_id))
    await store.persist_completed(given)

    async def counted() -> bool:
        return (await table_counters(engines.read))["request_templates"]["updated"] == len(given)

    # a connection's counts are told when it closes
    await engines.write.dispose()
    await eventually(counted)
    assert (await table_counters(engines.read))["request_templates"]["scanned"] == 0

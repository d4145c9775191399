"""Reads open the partitions they need and no others, by the server's own account."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestFilter, RequestStore
from rwriter.partitions import ensure
from rwriter.pytest_plugin import Databases
from tests.support.fixtures import unpooled
from tests.support.migrations import engine_on

pytestmark = pytest.mark.costs

NOW = datetime.now(UTC)
WEEKS, ROWS = 6, 2_000
"""Weeks of the past, and requests in each."""

FILL = f"""
CREATE TABLE ids AS
    SELECT at, (left(rwriter_first_id(at)::text, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid AS id
    FROM generate_series(1, {WEEKS}) week, generate_series(1, {ROWS}) n, LATERAL (
        SELECT (date_trunc('week', now() AT TIME ZONE 'UTC') - week * interval '1 week' + interval '1 day'
            + n * interval '5 days' / {ROWS}) AT TIME ZONE 'UTC' AS at
    ) AS moment;
INSERT INTO request_templates (id, endpoint, method, path, model, api_key, body)
    SELECT id, '', 'POST', '/v1/responses', 'm', '', repeat('x', 300) FROM ids;
INSERT INTO requests (id, template_id, model, state, daemon_id, claimed_at, started_at, completed_at, response_status,
    response_body, service_tier, created_by, created_at)
    SELECT id, id, 'm', 'completed', id, at, at, at, 200, 'x', 'priority', 'tenant-a', at FROM ids;
DROP TABLE ids
"""


@pytest.fixture(scope="module")
def filled(_rwriter_databases: Databases) -> Iterator[str]:
    """A database with requests in each of the last weeks, from which the tests only read."""
    name = _rwriter_databases.create(_rwriter_databases.template(partitioned="week"))

    async def fill() -> None:
        async with engine_on(_rwriter_databases.url(name), isolation_level="AUTOCOMMIT") as engine:
            await ensure(engine, since=NOW - timedelta(weeks=WEEKS))
            async with engine.connect() as connection:
                for statement in (*FILL.split(";"), "VACUUM ANALYZE"):
                    await connection.execute(text(statement))

    asyncio.run(fill())
    yield name
    _rwriter_databases.drop(name)


@pytest.fixture
def engine(_rwriter_databases: Databases, filled: str, driver: str) -> AsyncEngine:
    return unpooled(_rwriter_databases.url(filled), driver)


@pytest.fixture
def store(engine: AsyncEngine) -> RequestStore:
    return RequestStore(engine)


class Opened:
    """Asks the server which partitions the statements of a call read."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._noted: list[tuple[str, Any]] = []
        event.listen(engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "requests." in statement:
            self._noted.append((statement, parameters))

    async def by(self, call: Awaitable[Any]) -> list[set[str]]:
        """Return the tables that each statement of ``call`` reads, however often none of their rows was found."""
        self._noted.clear()
        await call
        async with self._engine.connect() as connection:
            return [await self._tables(connection, *each) for each in list(self._noted)]

    async def _tables(self, connection: Any, statement: str, parameters: Any) -> set[str]:
        plan = (
            await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        ).scalar_one()
        return set(_read((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]))


def _read(node: dict[str, Any]) -> Iterator[str]:
    # pruned when the plan is made it is not in it, pruned while it runs it is read no time
    if "Relation Name" in node and node["Actual Loops"]:
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from _read(child)


def weeks(tables: set[str]) -> set[str]:
    return {re.sub(r".*_", "", table) for table in tables}


@pytest.fixture
def opened(engine: AsyncEngine) -> Opened:
    return Opened(engine)


async def requests_by_week(engine: AsyncEngine) -> dict[str, list[uuid.UUID]]:
    """The ids of each week's requests, oldest first, by the ending of their partition's name."""
    query = "SELECT id, tableoid::regclass::text AS partition FROM requests ORDER BY created_at, id"
    found: dict[str, list[uuid.UUID]] = {}
    async with engine.connect() as connection:
        for row in await connection.execute(text(query)):
            found.setdefault(row.partition.removeprefix("requests_"), []).append(row.id)
    return found


async def test_one_request_is_read_in_the_partition_of_its_id_alone(
    engine: AsyncEngine, store: RequestStore, opened: Opened
) -> None:
    by_week = await requests_by_week(engine)
    assert [len(ids) for ids in by_week.values()] == [ROWS] * WEEKS
    for week, ids in by_week.items():
        (tables,) = await opened.by(store.get_request(ids[0]))
        assert tables == {f"requests_{week}", f"request_templates_{week}"}


@pytest.mark.parametrize("back", [1, 2])
async def test_a_page_of_a_time_window_opens_no_partition_that_is_older(
    engine: AsyncEngine, store: RequestStore, opened: Opened, back: int
) -> None:
    by_week = await requests_by_week(engine)
    week = sorted(by_week)[-back]
    since = datetime.strptime(week, "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1)
    asked = RequestFilter(created_after=since, limit=10)
    expected = [each for begin, ids in by_week.items() if begin >= week for each in ids]
    page = await store.list_requests(asked)
    assert page.total_count == len(expected) == back * ROWS
    assert [each.id for each in page.data] == expected[-10:][::-1]
    read = await opened.by(store.list_requests(asked))
    assert len(read) == 2  # the page and its total
    for tables in read:
        assert min(weeks(tables)) == week, tables


async def test_without_a_window_every_partition_is_looked_into(
    engine: AsyncEngine, store: RequestStore, opened: Opened
) -> None:
    (tables,) = await opened.by(store.list_page(RequestFilter(limit=10)))
    assert weeks(tables) >= set(await requests_by_week(engine))

"""The planner takes the plans meant for the store's own statements on a table that is not small."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import RequestFilter, RequestStore
from rwriter.engines._urls import connect_arguments
from rwriter.pytest_plugin import Databases
from tests.support.driving import eventually
from tests.support.records import new_request, record

pytestmark = [pytest.mark.costs, pytest.mark.plain_only]  # tests/partitions has the plans of the other variant

ROWS, OWNERS, ACTIVE = 50_000, 20, 40
LIMIT = 50
PAGE_ROWS = 6 * LIMIT
"""Rows a page may touch, templates and both legs of ``active_first`` included: far fewer than any owner has."""

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""A time in the table's older half."""

FILL = f"""
CREATE TABLE ids AS
    SELECT n, gen_random_uuid() AS id, gen_random_uuid() AS template_id,
        timestamptz '2026-01-01' + n * interval '1 second' AS at
    FROM generate_series(1, {ROWS}) n;
INSERT INTO request_templates (id, endpoint, method, path, model, api_key, body)
    SELECT template_id, '', 'POST', '/v1/responses', 'm', '', repeat('x', 100) FROM ids;
-- a third is the daemon's batches, of the rest a few are in flight, the youngest and some forgotten ones
INSERT INTO requests (id, template_id, model, state, daemon_id, claimed_at, started_at, completed_at,
    response_status, response_body, service_tier, created_by, batch_id, created_at)
    SELECT id, template_id, 'm' || n % 3, CASE WHEN active THEN 'processing' ELSE 'completed' END, id, at, at,
        CASE WHEN NOT active THEN at END, 200, 'x', 'priority',
        CASE WHEN n % 3 > 0 THEN 'tenant-' || n % {OWNERS} END, CASE WHEN n % 3 = 0 THEN id END, at
    FROM (
        SELECT *, n % 3 > 0 AND (n > {ROWS} - {ACTIVE} OR n % 5000 = 1) AS active FROM ids
    ) AS numbered;
DROP TABLE ids
"""


@pytest.fixture(scope="module")
def large_template(_rwriter_databases: Databases) -> Iterator[str]:
    """A filled database, to be cloned by every test."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    url, connect_args = connect_arguments(_rwriter_databases.url(name))

    async def fill() -> None:
        # VACUUM refuses to run in a transaction
        engine = create_async_engine(url, connect_args=connect_args, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in (*FILL.split(";"), "VACUUM ANALYZE requests", "VACUUM ANALYZE request_templates"):
                await connection.execute(text(statement))

    asyncio.run(fill())
    yield name
    _rwriter_databases.drop(name)


@pytest.fixture
def large(_rwriter_databases: Databases, large_template: str) -> Iterator[AsyncEngine]:
    name = _rwriter_databases.create(large_template)
    url, connect_args = connect_arguments(_rwriter_databases.url(name))
    yield create_async_engine(url, connect_args=connect_args, poolclass=NullPool)
    _rwriter_databases.drop(name)


class Scan(NamedTuple):
    """A node of a plan that reads a table: ``how`` is an index or "Seq Scan", ``read`` counts dropped rows too."""

    table: str
    how: str
    read: float


class Plans:
    """Notes the statements that a call makes, and asks the server how it runs them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._statements: list[tuple[str, Any]] = []
        event.listen(engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "requests" in statement:
            self._statements.append((statement, parameters))

    async def of(self, call: Awaitable[Any], *, counting: bool = False, generic: bool = False) -> list[dict[str, Any]]:
        """Every node of the plans of the statements that ``call`` makes, run once more and rolled back.

        Of those that count a listing's rows, or of the others. ``generic`` plans are made without the parameters, as
        the server does for prepared statements that it thinks them good enough for.
        """
        self._statements.clear()
        await call
        statements = [each for each in self._statements if ("count(*) AS count_1" in each[0]) is counting]
        assert statements
        nodes: list[dict[str, Any]] = []
        async with self._engine.connect() as connection:
            for statement, parameters in statements:
                explain = "EXPLAIN (ANALYZE, FORMAT JSON)"
                if generic:
                    run = await prepared(connection, statement, parameters)
                    found = await connection.exec_driver_sql(f"{explain} {run}")
                else:
                    found = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
                plan = found.scalar_one()
                nodes += walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        return nodes


async def prepared(connection: AsyncConnection, statement: str, parameters: Sequence[Any]) -> str:
    """Prepare ``statement``, never to be planned for its values; answers with the SQL that runs it."""
    await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    await connection.exec_driver_sql(f"PREPARE explained AS {statement}")
    values = [f"{{{','.join(value)}}}" if isinstance(value, list) else value for value in parameters]
    given = ", ".join(f"'{value}'" for value in values)
    return f"EXECUTE explained({given})"


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def scans(nodes: list[dict[str, Any]]) -> list[Scan]:
    found = []
    for node in nodes:
        if not node["Node Type"].endswith("Scan") or node["Node Type"] in {"CTE Scan", "Subquery Scan"}:
            continue
        dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        read = (node["Actual Rows"] + dropped) * node["Actual Loops"]
        found.append(Scan(node.get("Relation Name", ""), node.get("Index Name", node["Node Type"]), read))
    return found


def sorted_rows(nodes: list[dict[str, Any]]) -> float:
    """The most rows that any sort of the plan was given."""
    sorts = [node for node in nodes if "Sort" in node["Node Type"]]
    return max((child["Actual Rows"] for node in sorts for child in node["Plans"]), default=0)


@pytest.fixture
async def plans(large: AsyncEngine) -> Plans:
    return Plans(large)


@pytest.fixture
def store(large: AsyncEngine) -> RequestStore:
    return RequestStore(large)


async def deep_cursor(store: RequestStore, skip: int, **asked: Any) -> str:
    page = await store.list_requests(RequestFilter(limit=1, offset=skip, **asked))
    assert page.next_cursor is not None
    return page.next_cursor


async def test_one_request_is_two_lookups_by_primary_key(store: RequestStore, plans: Plans) -> None:
    (summary,) = (await store.list_requests(RequestFilter(limit=1))).data
    found = scans(await plans.of(store.get_request(summary.id)))
    assert sorted(found) == [
        Scan("request_templates", "request_templates_pkey", 1),
        Scan("requests", "requests_pkey", 1),
    ]


async def test_a_clients_own_id_is_one_look_into_the_index_of_those_ids(
    store: RequestStore, plans: Plans, large: AsyncEngine
) -> None:
    async with large.begin() as connection:
        given = "UPDATE requests SET custom_id = 'chatcmpl-' || id WHERE created_by IS NOT NULL AND id::text < '4'"
        await connection.execute(text(given))
        await connection.execute(text("ANALYZE requests"))
        owner = "SELECT custom_id, created_by FROM requests WHERE custom_id IS NOT NULL LIMIT 1"
        custom_id, created_by = (await connection.execute(text(owner))).one()
    found = scans(await plans.of(store.find_request(custom_id, created_by)))
    assert Scan("requests", "ix_requests_custom_id", 1) in found
    assert sum(scan.read for scan in found) <= PAGE_ROWS


async def test_an_id_that_a_client_saw_first_is_one_look_into_the_index_of_those_ids(
    store: RequestStore, plans: Plans, large: AsyncEngine
) -> None:
    async with large.begin() as connection:
        given = "UPDATE request_templates SET custom_id = 'first-' || id WHERE id::text < '4'"
        await connection.execute(text(given))
        await connection.execute(text("ANALYZE request_templates"))
        owner = (
            "SELECT t.custom_id, created_by FROM requests r JOIN request_templates t ON t.id = template_id "
            "WHERE t.custom_id IS NOT NULL AND created_by IS NOT NULL LIMIT 1"
        )
        first_id, created_by = (await connection.execute(text(owner))).one()
    for known, asking in ((first_id, created_by), (first_id, "nobody"), ("unknown", created_by)):
        found = scans(await plans.of(store.find_request(known, asking)))
        assert {scan.how for scan in found if scan.table == "request_templates"} <= {
            "ix_request_templates_custom_id",
            "request_templates_pkey",
        }
        assert "Seq Scan" not in {scan.how for scan in found}
        assert sum(scan.read for scan in found) <= PAGE_ROWS


@pytest.mark.parametrize(
    ("asked", "skip", "index"),
    [
        ({"created_by": "tenant-7"}, 0, "ix_requests_created_by_created_at_id"),
        ({"created_by": "tenant-7"}, 1_000, "ix_requests_created_by_created_at_id"),
        ({}, 0, "ix_requests_created_at_id"),
        ({}, 20_000, "ix_requests_created_at_id"),
        ({"created_by": "tenant-7", "models": ["m1"]}, 0, "ix_requests_created_by_created_at_id"),
        ({"created_by": "tenant-7", "models": ["m1"]}, 200, "ix_requests_created_by_created_at_id"),
        ({"models": ["m1", "m0"]}, 10_000, "ix_requests_created_at_id"),
        ({"created_by": "tenant-7", "status": "completed"}, 1_000, "ix_requests_created_by_created_at_id"),
        ({"status": "completed", "service_tiers": ["priority"]}, 20_000, "ix_requests_created_at_id"),
        ({"status": "processing"}, 0, "ix_requests_active"),
        ({"status": "failed"}, 0, "ix_requests_failed"),
        ({"created_before": NOON}, 0, "ix_requests_created_at_id"),
        ({"active_first": True}, 0, "ix_requests_active"),
        ({"active_first": True, "created_by": "tenant-7"}, 0, "ix_requests_active"),
        ({"active_first": True}, 20_000, "ix_requests_created_at_id"),
        ({"active_first": True, "created_by": "tenant-7"}, 1_000, "ix_requests_created_by_created_at_id"),
    ],
    ids=str,
)
@pytest.mark.parametrize("generic", [False, True], ids=["planned for its values", "planned for any values"])
async def test_a_page_reads_its_own_rows_and_sorts_no_table(
    store: RequestStore, plans: Plans, asked: dict[str, Any], skip: int, index: str, generic: bool
) -> None:
    cursor = await deep_cursor(store, skip, **asked) if skip else None
    nodes = await plans.of(store.list_page(RequestFilter(limit=LIMIT, cursor=cursor, **asked)), generic=generic)
    found = scans(nodes)
    assert "Seq Scan" not in {scan.how for scan in found}
    assert index in {scan.how for scan in found}
    assert sum(scan.read for scan in found) <= PAGE_ROWS
    assert sorted_rows(nodes) <= 2 * LIMIT + 2


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"models": ["rare"]}, "ix_requests_created_by_created_at_id"),
        # of failures there are fewer yet than of the owner's rows
        ({"status": "failed"}, "ix_requests_failed"),
    ],
    ids=str,
)
async def test_what_an_owner_has_little_of_is_looked_for_among_the_owners_rows_alone(
    store: RequestStore, plans: Plans, large: AsyncEngine, asked: dict[str, Any], index: str
) -> None:
    async with large.begin() as connection:
        few = "UPDATE requests SET model = 'rare', state = 'failed', error = '', failed_at = created_at"
        await connection.execute(text(f"{few} WHERE state = 'completed' AND created_by = 'tenant-7' AND model = 'm1'"
                                      f" AND created_at < '{NOON}'"))  # fmt: skip
        await connection.execute(text("ANALYZE requests"))
    found = scans(await plans.of(store.list_page(RequestFilter(limit=LIMIT, created_by="tenant-7", **asked))))
    assert index in {scan.how for scan in found}
    # so few rows may be read in the order of the table and sorted then; the dead ones of the update are read too
    assert sum(scan.read for scan in found if scan.table == "requests") <= ROWS / OWNERS


async def test_the_total_of_an_owner_is_counted_in_the_index_alone(store: RequestStore, plans: Plans) -> None:
    page = RequestFilter(limit=1, created_by="tenant-7")
    total = (await store.list_requests(page)).total_count
    nodes = await plans.of(store.list_requests(page), counting=True)
    assert scans(nodes) == [Scan("requests", "ix_requests_created_by_created_at_id", total)]
    # the rows themselves are not fetched, where a vacuum has been
    assert [node["Heap Fetches"] for node in nodes if node["Node Type"] == "Index Only Scan"] == [0]


async def test_stale_rows_are_found_among_the_active_ones(store: RequestStore, plans: Plans) -> None:
    async def fail_stale_over_again() -> None:
        # none is that old: the statement is the same, and the rows are left for the plan to find
        assert await store.fail_stale(timedelta(days=36_500)) == 0

    found = scans(await plans.of(fail_stale_over_again()))
    assert "ix_requests_active" in {scan.how for scan in found}
    assert "Seq Scan" not in {scan.how for scan in found}
    assert sum(scan.read for scan in found) <= 2 * ACTIVE


async def counters(engine: AsyncEngine) -> dict[str, int]:
    query = text(
        "SELECT sum(seq_scan) FILTER (WHERE relname = 'requests') AS requests_read,"
        " sum(seq_scan) FILTER (WHERE relname = 'request_templates') AS templates_read,"
        " sum(n_tup_ins + n_tup_upd + n_tup_del) AS written FROM pg_stat_user_tables"
    )
    async with engine.connect() as connection:
        row = (await connection.execute(query)).mappings().one()
    return {name: int(value) for name, value in row.items()}


async def test_writing_and_deleting_scan_no_table(store: RequestStore, large: AsyncEngine) -> None:
    # counted by the server: the foreign key's own look for rows that use a template is in no plan of ours
    before = await counters(large)
    batch = [record(started_at=datetime.now(UTC), completed_at=datetime.now(UTC)) for _ in range(20)]
    await store.persist_completed(batch)
    await store.persist_completed(batch)
    begun = [new_request() for _ in range(5)]
    for new in begun:
        await store.create_realtime(new)
    for victim in [*(each.request_id for each in batch[:5]), *(each.request_id for each in begun)]:
        assert await store.delete_request(victim)
    assert await store.fail_stale(timedelta(days=1)) > 0

    async def all_counted() -> bool:
        # 25 rows and templates in, 10 rows deleted or blanked, their templates out, and at least one row failed
        return (await counters(large))["written"] - before["written"] > 50 + 10 + 10

    await eventually(all_counted)
    after = await counters(large)
    assert (after["requests_read"], after["templates_read"]) == (before["requests_read"], before["templates_read"])


def usage_read(nodes: list[dict[str, Any]], index: str) -> float:
    """The rows of requests that a plan reads, of which none may be read but through ``index``."""
    found = [scan for scan in scans(nodes) if scan.table == "requests" or "ix_" in scan.how]
    assert {scan.how for scan in found} <= {index, "Bitmap Heap Scan"}
    return sum(scan.read for scan in found if scan.table == "requests")


async def test_usage_of_a_window_reads_its_rows_through_the_index_of_all_rows_by_time(
    store: RequestStore, plans: Plans
) -> None:
    seconds = 600
    asked = store.usage(since=NOON - timedelta(seconds=seconds), until=NOON, by=["hour", "status"])
    # batches' rows, a third, are not in the index
    assert usage_read(await plans.of(asked), "ix_requests_created_at_id") <= seconds


async def test_usage_of_an_owner_reads_the_owners_rows_alone(store: RequestStore, plans: Plans) -> None:
    asked = store.usage(since=NOON - timedelta(days=1), until=NOON + timedelta(days=1), created_by="tenant-7")
    assert usage_read(await plans.of(asked), "ix_requests_created_by_created_at_id") <= ROWS / OWNERS

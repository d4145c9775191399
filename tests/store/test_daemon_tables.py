"""On tables that the daemon owns too: its columns, keys, indexes and triggers beside ours, its rows among ours."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import RequestFilter, RequestStore, new_request_id
from rwriter.schema import STATES, request_templates, requests
from tests.support.listing import ids, walk
from tests.support.records import new_request, record
from tests.support.rows import Counts, in_state, insert_request, one, quoted, rows, template_ids

INDEXED = (
    "state, created_at", "model, state", "batch_id", "batch_id, state", "daemon_id", "claimed_at", "started_at",
    "not_before", "priority, created_at", "service_tier, state", "routed_model", "custom_id, batch_id", "updated_at",
    "failed_at", "completed_at", "canceled_at", "retry_attempt", "response_status", "response_size", "is_escalated",
)  # fmt: skip
DAEMON_TABLES = """
CREATE TABLE files (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE batches (
    id uuid PRIMARY KEY, file_id uuid REFERENCES files (id) ON DELETE SET NULL, done integer NOT NULL DEFAULT 0
);
ALTER TABLE requests
    ADD COLUMN priority integer NOT NULL DEFAULT 0,
    ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN is_escalated boolean NOT NULL DEFAULT false,
    ADD COLUMN escalated_from uuid REFERENCES requests (id) ON DELETE SET NULL,
    ADD COLUMN tag text DEFAULT 'none',
    ADD CONSTRAINT requests_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches (id) ON DELETE CASCADE;
ALTER TABLE request_templates
    ADD CONSTRAINT request_templates_file_id_fkey FOREIGN KEY (file_id) REFERENCES files (id) ON DELETE CASCADE;
CREATE UNIQUE INDEX ON request_templates (file_id, line_number) WHERE file_id IS NOT NULL;
CREATE INDEX ON requests USING gin (metadata);
CREATE INDEX ON requests (escalated_from);
CREATE TABLE events (at timestamptz NOT NULL DEFAULT now(), request_id uuid NOT NULL, state text NOT NULL);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %I.events (request_id, state) VALUES ($1, $2)', TG_TABLE_SCHEMA)
        USING NEW.id, NEW.state;
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OF state ON requests FOR EACH ROW EXECUTE FUNCTION note();
CREATE VIEW active_requests AS SELECT * FROM requests WHERE state IN ('pending', 'claimed', 'processing');
""" + "".join(f"CREATE INDEX ON requests ({columns});" for columns in INDEXED)


@pytest.fixture(autouse=True)
async def daemon_tables(engine: AsyncEngine, schema: str | None, partitioned: str | None) -> None:
    """Apply what the daemon's own migrations add to the two tables. Partitioned ones have no other unique index."""
    added = DAEMON_TABLES if partitioned is None else DAEMON_TABLES.replace("CREATE UNIQUE INDEX", "CREATE INDEX")
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        await raw.execute(f"SET search_path TO {quoted(schema)}; {added}")


class Daemon:
    """Leaves rows as the daemon would, in the columns that only it knows."""

    def __init__(self, engine: AsyncEngine, schema: str | None) -> None:
        self._engine = engine
        self._schema = quoted(schema)

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with self._engine.begin() as connection:
            await connection.exec_driver_sql(f"SET LOCAL search_path TO {self._schema}")
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def batch(self) -> uuid.UUID:
        """A batch of one request for each state, with a file and its templates."""
        batch_id, file_id = uuid.uuid4(), uuid.uuid4()
        await self.sql("INSERT INTO files VALUES (:id, 'input.jsonl')", id=file_id)
        await self.sql("INSERT INTO batches (id, file_id) VALUES (:id, :file)", id=batch_id, file=file_id)
        for number, state in enumerate(STATES):
            template_id = new_request_id()
            await self.sql(
                "INSERT INTO request_templates (id, file_id, endpoint, method, path, model, api_key, line_number)"
                " VALUES (:id, :file, 'http://up', 'POST', '/v1/chat/completions', 'm', '', :number)",
                id=template_id, file=file_id, number=number,
            )  # fmt: skip
            await insert_request(
                self._engine, **in_state(state, batch_id=batch_id, template_id=template_id, service_tier="priority")
            )
        await self.sql("UPDATE requests SET metadata = '{\"k\": 1}', priority = 7 WHERE batch_id = :id", id=batch_id)
        return batch_id

    async def everything(self) -> list[Any]:
        """All the daemon's rows, in all their columns."""
        return [
            await self.sql("SELECT r.*, r.xmin::text FROM requests r WHERE r.service_tier = 'flex'"
                           " OR r.batch_id IS NOT NULL ORDER BY r.id"),
            await self.sql("SELECT t.*, t.xmin::text FROM request_templates t WHERE t.file_id IS NOT NULL ORDER BY id"),
            await self.sql("SELECT * FROM batches ORDER BY id"),
        ]  # fmt: skip


@pytest.fixture
def daemon(engine: AsyncEngine, schema: str | None) -> Daemon:
    return Daemon(engine, schema)


async def test_rows_are_inserted_with_the_daemons_defaults(
    store: RequestStore, engine: AsyncEngine, daemon: Daemon
) -> None:
    batch = [record(custom_id="chatcmpl-1"), record(status_code=500)]
    assert await store.persist_completed(batch) == Counts(inserted=2, updated=0, skipped=0)
    extra = await daemon.sql("SELECT priority, metadata, is_escalated, escalated_from, tag FROM requests")
    assert [tuple(row) for row in extra] == [(0, {}, False, None, "none")] * 2
    assert [row["state"] for row in await rows(engine, requests)] == ["completed", "failed"]
    assert {row["template_id"] for row in await rows(engine, requests)} == await template_ids(engine)
    assert await daemon.sql("SELECT metadata, file_id FROM request_templates") == [(None, None)] * 2


async def test_begun_rows_are_finished_and_the_daemons_columns_stay(store: RequestStore, daemon: Daemon) -> None:
    new = new_request()
    await store.create_realtime(new)
    await daemon.sql("UPDATE requests SET metadata = '{\"kept\": true}', priority = 3, tag = NULL")
    result = await store.persist_completed([record(request_id=new.request_id)])
    assert result == Counts(inserted=0, updated=1, skipped=0)
    (row,) = await daemon.sql("SELECT state, metadata, priority, tag FROM requests")
    assert tuple(row) == ("completed", {"kept": True}, 3, None)
    # the daemon's trigger saw both steps
    states = await daemon.sql("SELECT state FROM events WHERE request_id = :id ORDER BY at", id=new.request_id)
    assert [state for (state,) in states] == ["processing", "completed"]


@pytest.mark.both_variants
async def test_the_daemons_rows_are_skipped_and_untouched_in_every_column(
    store: RequestStore, engine: AsyncEngine, daemon: Daemon
) -> None:
    await daemon.batch()
    for state in STATES:
        await insert_request(engine, **in_state(state))
    theirs = [row["id"] for row in await rows(engine, requests)]
    before = await daemon.everything()

    result = await store.persist_completed([*(record(request_id=i) for i in theirs), record()])
    assert result == Counts(inserted=1, updated=0, skipped=len(theirs))
    assert await store.persist_completed([record(request_id=i) for i in theirs]) == Counts(0, 0, len(theirs))
    assert await store.fail_stale(timedelta(microseconds=1)) == 0
    for batched in [row["id"] for row in await rows(engine, requests) if row["batch_id"] is not None]:
        assert not await store.delete_request(batched)

    assert await daemon.everything() == before


async def test_readers_see_rows_of_the_daemon_with_an_owner_and_no_batch_rows(
    store: RequestStore, engine: AsyncEngine, daemon: Daemon
) -> None:
    await daemon.batch()
    owned = [await insert_request(engine, **in_state(state)) for state in STATES]
    mine = record()
    await store.persist_completed([mine])
    assert set(ids(await walk(store, limit=2, active_first=True))) == {*owned, mine.request_id}
    page = await store.list_requests(RequestFilter(service_tiers=["flex"], created_by="tenant-d"))
    assert set(ids(page)) == set(owned)
    assert page.total_count == len(STATES)
    for row in await rows(engine, requests):
        detail = await store.get_request(row["id"])
        assert (detail is None) == (row["batch_id"] is not None)


async def test_a_request_that_others_refer_to_is_deleted(store: RequestStore, daemon: Daemon) -> None:
    mine, referring = record(), record()
    await store.persist_completed([mine, referring])
    await daemon.sql(
        "UPDATE requests SET escalated_from = :first WHERE id = :second",
        first=mine.request_id, second=referring.request_id,
    )  # fmt: skip
    assert await store.delete_request(mine.request_id, "tenant-a")
    assert await daemon.sql("SELECT id, escalated_from FROM requests") == [(referring.request_id, None)]
    assert len(await daemon.sql("SELECT 1 FROM request_templates")) == 1


async def test_deleting_an_owners_request_leaves_the_template_of_a_file(
    store: RequestStore, engine: AsyncEngine, daemon: Daemon
) -> None:
    await daemon.batch()
    before = await daemon.everything()
    shared = (await rows(engine, request_templates))[0]["id"]
    for state in ("completed", "pending"):
        again = await insert_request(engine, **in_state(state, template_id=shared), service_tier="auto")
        assert await store.delete_request(again)
    assert await daemon.everything() == before


async def test_a_stale_row_fails_on_the_daemons_tables(store: RequestStore, engine: AsyncEngine) -> None:
    old = datetime.now(UTC) - timedelta(hours=2)
    stuck = await insert_request(engine, **in_state("processing", started_at=old, service_tier="priority"))
    assert await store.fail_stale(timedelta(hours=1)) == 1
    assert (await one(engine, requests, stuck))["state"] == "failed"


async def test_an_unknown_id_is_read_by_nobody(store: RequestStore) -> None:
    assert await store.get_request(new_request_id()) is None

"""The migrations, ``rwriter.schema`` and the written contract describe the same tables."""

from __future__ import annotations

from typing import Any, Final

import pytest
from sqlalchemy import Column, ForeignKey, Table

from rwriter import RequestStore, SchemaOutdated, migrate
from rwriter.schema import metadata
from tests.support.migrations import column, connected, engine_on, execute, rows

CATALOGUES: Final = {
    "columns": """
        SELECT c.relname, attname, attnum, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
            attcollation::regcollation, pg_get_expr(adbin, adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' AND attnum > 0 AND NOT attisdropped
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype, convalidated, condeferrable, confupdtype, confdeltype,
            confrelid::regclass::text, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = $1::regnamespace
    """,
    "indexes": """
        SELECT tablename, indexname, replace(indexdef, schemaname || '.', '') FROM pg_indexes WHERE schemaname = $1
    """,
}

UUID, TEXT, TIME, INT, BIGINT = "uuid", "text", "timestamp with time zone", "integer", "bigint"
FRESH_ID, NOW, ZERO = "gen_random_uuid()", "now()", "0"
REQUIRED: Final = True

# name: (type, not null, default), as the contract words them
CONTRACT: Final[dict[str, dict[str, tuple[str, bool, str | None]]]] = {
    "requests": {
        "id": (UUID, REQUIRED, FRESH_ID),
        "batch_id": (UUID, False, None),
        "template_id": (UUID, False, None),
        "model": (TEXT, REQUIRED, None),
        "custom_id": (TEXT, False, None),
        "state": (TEXT, REQUIRED, "'pending'::text"),
        "retry_attempt": (INT, REQUIRED, ZERO),
        "not_before": (TIME, False, None),
        "daemon_id": (UUID, False, None),
        "claimed_at": (TIME, False, None),
        "started_at": (TIME, False, None),
        "completed_at": (TIME, False, None),
        "failed_at": (TIME, False, None),
        "canceled_at": (TIME, False, None),
        "response_status": ("smallint", False, None),
        "response_body": (TEXT, False, None),
        "response_size": (BIGINT, REQUIRED, ZERO),
        "error": (TEXT, False, None),
        "routed_model": (TEXT, False, None),
        "service_tier": (TEXT, False, None),
        "created_by": (TEXT, False, None),
        "created_at": (TIME, REQUIRED, NOW),
        "updated_at": (TIME, REQUIRED, NOW),
        "input_tokens": (INT, False, None),
        "output_tokens": (INT, False, None),
        "cached_input_tokens": (INT, False, None),
        "reasoning_tokens": (INT, False, None),
        "first_token_at": (TIME, False, None),
    },
    "request_templates": {
        "id": (UUID, REQUIRED, FRESH_ID),
        "file_id": (UUID, False, None),
        "custom_id": (TEXT, False, None),
        "endpoint": (TEXT, REQUIRED, None),
        "method": (TEXT, REQUIRED, None),
        "path": (TEXT, REQUIRED, None),
        "model": (TEXT, REQUIRED, None),
        "api_key": (TEXT, REQUIRED, None),
        "body": (TEXT, REQUIRED, "''::text"),
        "body_byte_size": (BIGINT, REQUIRED, ZERO),
        "line_number": (INT, REQUIRED, ZERO),
        "created_at": (TIME, REQUIRED, NOW),
        "updated_at": (TIME, REQUIRED, NOW),
        "metadata": ("jsonb", False, None),
    },
    "dead_letters": {
        "id": (UUID, REQUIRED, FRESH_ID),
        "request_id": (UUID, REQUIRED, None),
        "created_by": (TEXT, REQUIRED, None),
        "sqlstate": (TEXT, False, None),
        "error": (TEXT, REQUIRED, None),
        "payload": ("bytea", REQUIRED, None),
        "created_at": (TIME, REQUIRED, NOW),
    },
    "erasures": {
        "owner_digest": (TEXT, REQUIRED, None),
        "erased_at": (TIME, REQUIRED, None),
    },
    "ledger": {
        "writer_id": (UUID, REQUIRED, None),
        "seq": (BIGINT, REQUIRED, None),
        "kind": (TEXT, REQUIRED, None),
        "ids": ("uuid[]", REQUIRED, "'{}'::uuid[]"),
        "number": (INT, REQUIRED, ZERO),
        "tags": ("bytea", REQUIRED, "'\\x'::bytea"),
        "digest": ("bytea", REQUIRED, None),
        "previous": ("bytea", REQUIRED, None),
        "account": ("jsonb", False, None),
        "skipped": ("uuid[]", False, None),
        "begun": ("uuid[]", False, None),
        "at": (TIME, REQUIRED, NOW),
    },
}

LZ4_COLUMNS: Final = [("request_templates", "body"), ("requests", "error"), ("requests", "response_body")]


async def catalogue(url: str, schema: str, query: str) -> list[tuple[Any, ...]]:
    async with connected(url) as connection:
        # so that definitions name no schema
        await connection.execute(f"SET search_path TO {schema}")
        found = [tuple(row) for row in await connection.fetch(query, schema)]
    return sorted((row for row in found if not str(row[0]).startswith("rwriter_")), key=str)


async def test_the_declared_tables_and_the_migrated_ones_are_the_same(empty_database: str) -> None:
    await execute(empty_database, "CREATE SCHEMA declared")
    async with engine_on(empty_database) as engine, engine.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL search_path TO declared")
        await connection.run_sync(metadata.create_all)
    await migrate.upgrade(empty_database, schema="migrated")

    for query in CATALOGUES.values():
        migrated = await catalogue(empty_database, "migrated", query)
        assert len(migrated) >= len(metadata.tables)
        assert await catalogue(empty_database, "declared", query) == migrated


@pytest.mark.plain_only
@pytest.mark.parametrize("table", CONTRACT)
async def test_every_column_of_the_contract_is_there_with_its_type_and_default(
    unchanged_database: str, table: str
) -> None:
    found = await rows(
        unchanged_database,
        """
        SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum
        """,
        table,
    )
    assert {name: tuple(rest) for name, *rest in found} == CONTRACT[table]


@pytest.mark.plain_only
async def test_deleting_a_template_leaves_its_request(rwriter_database: str) -> None:
    await execute(
        rwriter_database,
        """
        WITH template AS (
            INSERT INTO request_templates (endpoint, method, path, model, api_key)
            VALUES ('', 'POST', '/v1/responses', 'm', '') RETURNING id
        )
        INSERT INTO requests (template_id, model, created_by) SELECT id, 'm', 'me' FROM template;
        DELETE FROM request_templates
        """,
    )
    assert await column(rwriter_database, "SELECT template_id FROM requests") == [None]


@pytest.mark.parametrize("table", ["requests", "request_templates"])
async def test_a_trigger_keeps_updated_at(rwriter_database: str, table: str) -> None:
    await execute(
        rwriter_database,
        """
        INSERT INTO requests (model, created_by, created_at, updated_at) VALUES ('m', 'me', '2001-01-01', '2001-01-01');
        INSERT INTO request_templates (endpoint, method, path, model, api_key, created_at, updated_at)
            VALUES ('', 'POST', '/v1/responses', 'm', '', '2001-01-01', '2001-01-01')
        """,
    )
    async with connected(rwriter_database) as connection, connection.transaction():
        await connection.execute(f"UPDATE {table} SET model = 'n', updated_at = '2002-02-02'")
        (row,) = await connection.fetch(f"SELECT updated_at = now() AS touched, created_at FROM {table}")
    assert row["touched"]
    assert row["created_at"].year == 2001


async def test_bodies_use_lz4_where_the_server_has_it(rwriter_database: str) -> None:
    (server_has_it,) = await column(
        rwriter_database,
        "SELECT coalesce(bool_or('lz4' = ANY (enumvals)), false) FROM pg_settings "
        "WHERE name = 'default_toast_compression'",
    )
    marked = await rows(
        rwriter_database,
        "SELECT attrelid::regclass::text, attname::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "WHERE relnamespace = 'public'::regnamespace AND attcompression = 'l' ORDER BY 1, 2",
    )
    assert marked == (LZ4_COLUMNS if server_has_it else [])

    await execute(
        rwriter_database,
        "INSERT INTO requests (model, created_by, response_body) VALUES ('m', 'me', repeat('x', 9999))",
    )
    used = await column(rwriter_database, "SELECT pg_column_compression(response_body) FROM requests")
    assert used == ["lz4" if server_has_it else "pglz"]


@pytest.mark.plain_only
@pytest.mark.parametrize("table", ["requests", "request_templates"])
async def test_vacuum_starts_at_a_number_of_rows_and_not_at_a_fraction(unchanged_database: str, table: str) -> None:
    ((heap, toast),) = await rows(
        unchanged_database,
        "SELECT c.reloptions, t.reloptions FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid "
        "WHERE c.oid = $1::text::regclass",
        table,
    )
    for options, jobs in ((heap, ("vacuum", "vacuum_insert", "analyze")), (toast, ("vacuum", "vacuum_insert"))):
        set_ = dict(option.split("=") for option in options)
        for job in jobs:
            assert set_[f"autovacuum_{job}_scale_factor"] == "0"
            assert int(set_[f"autovacuum_{job}_threshold"]) >= 20_000


async def test_what_others_added_to_the_tables_is_no_drift(rwriter_database: str) -> None:
    await execute(
        rwriter_database,
        """
        CREATE TABLE batches (id uuid PRIMARY KEY);
        ALTER TABLE requests ADD COLUMN priority int NOT NULL DEFAULT 0, ADD FOREIGN KEY (batch_id) REFERENCES batches;
        CREATE INDEX theirs ON requests (batch_id, state) WHERE batch_id IS NOT NULL;
        CREATE INDEX theirs_too ON requests (lower(model));
        COMMENT ON TABLE requests IS 'theirs'; COMMENT ON COLUMN requests.model IS 'theirs';
        UPDATE rwriter_alembic_version SET version_num = 'rwriter_0099'
        """,
    )
    await migrate.check(rwriter_database)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP TABLE dead_letters", "missing table dead_letters"),
        ("DROP INDEX ix_requests_active", "missing index ix_requests_active of requests"),
        ("ALTER TABLE requests DROP COLUMN error CASCADE", "missing column error of requests"),
        ("ALTER TABLE requests ALTER created_at DROP DEFAULT", r"requests.created_at: default is None, not now\(\)"),
        ("ALTER TABLE requests ALTER model DROP NOT NULL", "requests.model: nullable is True, not False"),
        ("ALTER TABLE requests ALTER response_size TYPE int", "requests.response_size: type is INTEGER, not BIGINT"),
        pytest.param(
            "ALTER TABLE requests DROP CONSTRAINT requests_template_id_fkey",
            "missing fk requests_template_id_fkey",
            marks=pytest.mark.plain_only,
        ),
        (
            "ALTER TABLE requests ADD region text NOT NULL",
            "requests.region: NOT NULL without a default, so that no record",
        ),
        ("ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_pkey", "dead_letters: the primary key is not id"),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_requests_active'::regclass",
            "index ix_requests_active is invalid",
        ),
    ],
)
async def test_what_rwriter_needs_and_does_not_find_is_named(rwriter_database: str, damage: str, named: str) -> None:
    await execute(rwriter_database, damage)
    with pytest.raises(migrate.SchemaDrift, match=named):
        await migrate.check(rwriter_database)


async def test_a_required_column_that_a_trigger_fills_or_that_has_a_default_is_no_drift(rwriter_database: str) -> None:
    await execute(
        rwriter_database,
        """
        ALTER TABLE requests ADD region text NOT NULL, ADD number bigint GENERATED ALWAYS AS IDENTITY,
            ADD size int GENERATED ALWAYS AS (length(model)) STORED;
        ALTER TABLE request_templates ADD region text NOT NULL DEFAULT 'eu';
        CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.region := $$eu$$; RETURN NEW; END';
        CREATE TRIGGER fill BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION fill()
        """,
    )
    await migrate.check(rwriter_database)


@pytest.mark.parametrize(
    ("index", "enough"),
    [
        ("(custom_id)", True),
        ("(custom_id, created_at)", True),
        ("(custom_id) WHERE custom_id IS NOT NULL", True),
        ("(created_at, custom_id)", False),
        ("(custom_id DESC)", False),
        ("(custom_id text_pattern_ops)", False),
        ("(lower(custom_id))", False),
        ("USING hash (custom_id)", False),
        ("(custom_id) WHERE created_by IS NOT NULL", False),
    ],
)
async def test_an_index_of_another_name_does_if_it_begins_with_the_same_keys_over_the_same_rows(
    rwriter_database: str, index: str, *, enough: bool
) -> None:
    await execute(rwriter_database, f"DROP INDEX ix_requests_custom_id; CREATE INDEX theirs ON requests {index}")
    if enough:
        await migrate.check(rwriter_database)
    else:
        with pytest.raises(migrate.SchemaDrift, match="missing index ix_requests_custom_id"):
            await migrate.check(rwriter_database)


async def test_tables_that_a_service_adds_to_the_metadata_are_no_drift(rwriter_database: str) -> None:
    orders = Table("orders", metadata, Column("request_id", ForeignKey("requests.id"), primary_key=True))
    try:
        await migrate.check(rwriter_database)
        assert migrate.include_name("orders", "table")
        assert not migrate.include_object(metadata.tables["requests"], "requests", "table")
    finally:
        metadata.remove(orders)


async def test_check_of_a_database_below_head_names_the_command(empty_database: str) -> None:
    with pytest.raises(SchemaOutdated, match="rwriter migrate"):
        await migrate.check(empty_database)
    async with engine_on(empty_database) as engine:
        with pytest.raises(SchemaOutdated, match="rwriter migrate"):
            await RequestStore(engine, schema="no such schema").check_schema()

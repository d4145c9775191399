"""The requests schema: requests, request_templates, dead_letters.

Frozen: it imports nothing of rwriter, so that what it builds never changes with the code. Names are unqualified; they
land in the first schema of the search_path, which env.py (or the service's own env.py) sets.

``-x partitioned=week`` or ``day`` (or the attribute ``partitioned`` of Alembic's configuration) makes the partitioned
variant: requests and request_templates are ranges of their UUIDv7 ``id``, with no foreign key between them, and the
partitions from the last week or day to four weeks ahead are there from the start.

Revision ID: rwriter_0001
Revises:
"""

from __future__ import annotations

from alembic import context, op

revision = "rwriter_0001"
down_revision = None
branch_labels: tuple[str, ...] = ("rwriter",)
depends_on = None

TEMPLATES = """
CREATE TABLE request_templates (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    file_id uuid,
    custom_id text,
    endpoint text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    model text NOT NULL,
    api_key text NOT NULL,
    body text NOT NULL DEFAULT '',
    body_byte_size bigint NOT NULL DEFAULT 0,
    line_number integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
)
"""

REQUESTS = """
CREATE TABLE requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    batch_id uuid,
    template_id uuid REFERENCES request_templates (id) ON DELETE SET NULL,
    model text NOT NULL,
    custom_id text,
    state text NOT NULL DEFAULT 'pending',
    retry_attempt integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    daemon_id uuid,
    claimed_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    failed_at timestamptz,
    canceled_at timestamptz,
    response_status smallint,
    response_body text,
    response_size bigint NOT NULL DEFAULT 0,
    error text,
    routed_model text,
    service_tier text,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT state_check
        CHECK (state IN ('pending', 'claimed', 'processing', 'completed', 'failed', 'canceled')),
    CONSTRAINT pending_fields_check
        CHECK (state <> 'pending' OR (daemon_id IS NULL AND claimed_at IS NULL AND started_at IS NULL)),
    CONSTRAINT claimed_fields_check
        CHECK (state <> 'claimed' OR (daemon_id IS NOT NULL AND claimed_at IS NOT NULL AND started_at IS NULL)),
    CONSTRAINT processing_fields_check
        CHECK (state <> 'processing' OR (daemon_id IS NOT NULL AND claimed_at IS NOT NULL AND started_at IS NOT NULL)),
    CONSTRAINT completed_fields_check
        CHECK (state <> 'completed' OR (response_status IS NOT NULL AND response_body IS NOT NULL
            AND completed_at IS NOT NULL)),
    CONSTRAINT failed_fields_check
        CHECK (state <> 'failed' OR (error IS NOT NULL AND failed_at IS NOT NULL)),
    CONSTRAINT canceled_fields_check
        CHECK (state <> 'canceled' OR canceled_at IS NOT NULL),
    CONSTRAINT requests_attribution_xor
        CHECK ((batch_id IS NULL) <> (created_by IS NULL)),
    CONSTRAINT requests_service_tier_check
        CHECK (service_tier IS NULL OR service_tier IN ('auto', 'default', 'flex', 'priority', 'background'))
)
"""

DEAD_LETTERS = """
CREATE TABLE dead_letters (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    request_id uuid NOT NULL,
    created_by text NOT NULL,
    sqlstate text,
    error text NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)
"""

# Each index names the query that needs it in rwriter/schema.py.
INDEXES = (
    """
    CREATE INDEX ix_requests_created_by_created_at_id ON requests (created_by, created_at DESC, id DESC)
        WHERE created_by IS NOT NULL
    """,
    """
    CREATE INDEX ix_requests_created_at_id ON requests (created_at DESC, id DESC)
        WHERE created_by IS NOT NULL
    """,
    "CREATE INDEX ix_requests_template_id ON requests (template_id)",
    """
    CREATE INDEX ix_requests_active ON requests (created_at DESC, id DESC)
        WHERE created_by IS NOT NULL AND state IN ('processing', 'claimed', 'pending')
    """,
    "CREATE INDEX ix_requests_custom_id ON requests (custom_id) WHERE custom_id IS NOT NULL",
    "CREATE INDEX ix_dead_letters_created_by ON dead_letters (created_by)",
)

TRIGGER_FUNCTION = """
CREATE FUNCTION rwriter_touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$
"""

TRIGGERS = (
    """
    CREATE TRIGGER requests_touch_updated_at BEFORE UPDATE ON requests
        FOR EACH ROW EXECUTE FUNCTION rwriter_touch_updated_at()
    """,
    """
    CREATE TRIGGER request_templates_touch_updated_at BEFORE UPDATE ON request_templates
        FOR EACH ROW EXECUTE FUNCTION rwriter_touch_updated_at()
    """,
)

# lz4 where this server was built with it, asked of the server itself so that `--sql` scripts work anywhere;
# pglz, the default, otherwise. EXECUTE, because servers before 14 would not even parse SET COMPRESSION.
COMPRESSION = """
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
    ) THEN
        EXECUTE 'ALTER TABLE requests ALTER COLUMN response_body SET COMPRESSION lz4';
        EXECUTE 'ALTER TABLE requests ALTER COLUMN error SET COMPRESSION lz4';
        EXECUTE 'ALTER TABLE request_templates ALTER COLUMN body SET COMPRESSION lz4';
    END IF;
END
$$
"""

# Absolute thresholds: a fraction of a hundred million rows would mean one enormous vacuum a week.
AUTOVACUUM = """
ALTER TABLE {table} SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 50000,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 50000,
    toast.autovacuum_vacuum_insert_scale_factor = 0,
    toast.autovacuum_vacuum_insert_threshold = 300000
)
"""

PERIODS = ("week", "day")

# A UUIDv7 begins with the milliseconds since 1970 in 48 bits: the first id of a moment is a partition's bound.
ID_FUNCTIONS = (
    """
    CREATE FUNCTION rwriter_first_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
        SELECT rpad(lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0')::uuid
    $$
    """,
    # a server before 18 has no uuidv7() of its own
    """
    CREATE FUNCTION rwriter_new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
        SELECT (lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
            || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid
    $$
    """,
)

# In UTC without a time zone, so that no summer time makes a day of 23 hours. The storage settings are each partition's
# own: a partitioned table takes none.
FIRST_PARTITIONS = """
DO $do$
DECLARE
    step interval := '1 {period}';
    today timestamp := now() AT TIME ZONE 'UTC';
    starts timestamp := date_trunc('{period}', today) - step;
    parent text;
    partition text;
BEGIN
    WHILE starts < today + interval '28 days' LOOP
        FOREACH parent IN ARRAY ARRAY['requests', 'request_templates'] LOOP
            partition := parent || to_char(starts, '_YYYYMMDD');
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', partition, parent,
                rwriter_first_id(starts AT TIME ZONE 'UTC'), rwriter_first_id((starts + step) AT TIME ZONE 'UTC'));
            EXECUTE format('{settings}', partition);
        END LOOP;
        starts := starts + step;
    END LOOP;
END
$do$
"""

DOWNGRADE = (
    "DROP TABLE dead_letters",
    "DROP TABLE requests",
    "DROP TABLE request_templates",
    "DROP FUNCTION rwriter_touch_updated_at()",
    # of the partitioned variant
    "DROP FUNCTION IF EXISTS rwriter_first_id(timestamptz), rwriter_new_id()",
)

# Tables that `rwriter migrate --adopt` found are another program's: there only what it made goes, by its comment.
SPARE_THEIRS = """
DO $$
DECLARE thing record;
BEGIN
    IF obj_description(to_regclass('rwriter_alembic_version'), 'pg_class')
        IS DISTINCT FROM 'rwriter adopted requests and request_templates'
    THEN
        {downgrade};
        RETURN;
    END IF;
    FOR thing IN
        SELECT c.relkind, c.relname, a.attname
        FROM pg_description d
        JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND d.objsubid > 0
        WHERE d.description = 'made by rwriter migrate --adopt'
            AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
        ORDER BY c.relkind = 'r' AND a.attname IS NULL
    LOOP
        IF thing.attname IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I DROP COLUMN %I', thing.relname, thing.attname);
        ELSIF thing.relkind = 'i' THEN
            EXECUTE format('DROP INDEX %I', thing.relname);
        ELSE
            EXECUTE format('DROP TABLE %I', thing.relname);
        END IF;
    END LOOP;
    COMMENT ON TABLE rwriter_alembic_version IS NULL;
END
$$
"""


def upgrade() -> None:
    """Create the three tables, their indexes, triggers and storage settings."""
    period = partitioned_by()
    for statement in (
        (TEMPLATES, REQUESTS) if period is None else (*ID_FUNCTIONS, *map(partitioned, (TEMPLATES, REQUESTS)))
    ):
        op.execute(statement)
    for statement in (DEAD_LETTERS, *INDEXES, TRIGGER_FUNCTION, *TRIGGERS, COMPRESSION):
        op.execute(statement)
    if period is not None:
        op.execute(FIRST_PARTITIONS.format(period=period, settings=AUTOVACUUM.format(table="%I")))
        return
    for table in ("requests", "request_templates"):
        op.execute(AUTOVACUUM.format(table=table))


def partitioned_by() -> str | None:
    """Return the length of a partition, or ``None`` for plain tables."""
    asked = context.get_x_argument(as_dictionary=True).get("partitioned")
    period = asked or context.config.attributes.get("partitioned")
    if period is not None and period not in PERIODS:
        msg = f"partitioned must be one of {', '.join(PERIODS)}, not {period!r}"
        raise ValueError(msg)
    return str(period) if period else None


def partitioned(table: str) -> str:
    """Return the statement for a table that is partitioned by its id, without the foreign key."""
    plain = table.replace("REFERENCES request_templates (id) ON DELETE SET NULL", "")
    return plain.replace("gen_random_uuid()", "rwriter_new_id()").rstrip() + " PARTITION BY RANGE (id)"


def downgrade() -> None:
    """Drop everything ``upgrade`` created, rows included."""
    op.execute(SPARE_THEIRS.format(downgrade=";".join(DOWNGRADE)))

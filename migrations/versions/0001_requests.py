"""The requests schema: requests, request_templates, dead_letters.

Frozen: it imports nothing of rwriter, so that what it builds never changes with the code. Names are unqualified; they
land in the first schema of the search_path, which env.py (or the service's own env.py) sets.

Revision ID: rwriter_0001
Revises:
"""

from __future__ import annotations

from alembic import op

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


def upgrade() -> None:
    """Create the three tables, their indexes, triggers and storage settings."""
    for statement in (TEMPLATES, REQUESTS, DEAD_LETTERS, *INDEXES, TRIGGER_FUNCTION, *TRIGGERS, COMPRESSION):
        op.execute(statement)
    for table in ("requests", "request_templates"):
        op.execute(AUTOVACUUM.format(table=table))


def downgrade() -> None:
    """Drop everything ``upgrade`` created, rows included."""
    for table in ("dead_letters", "requests", "request_templates"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION rwriter_touch_updated_at()")

"""Tokens, first-token time, metadata, erasures, and answers that changed their id.

Online: nullable columns without defaults are catalogue entries, and no row is rewritten. ``IF NOT EXISTS``, so that a
column that somebody made ahead of an upgrade does not stop it; ``rwriter check`` says whether it is the right one.

Revision ID: rwriter_0002
Revises: rwriter_0001
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "rwriter_0002"
down_revision = "rwriter_0001"
branch_labels = None
depends_on = None

# requests first, as every writer locks them
UPGRADE = (
    """
    ALTER TABLE requests
        ADD COLUMN IF NOT EXISTS input_tokens integer,
        ADD COLUMN IF NOT EXISTS output_tokens integer,
        ADD COLUMN IF NOT EXISTS cached_input_tokens integer,
        ADD COLUMN IF NOT EXISTS reasoning_tokens integer,
        ADD COLUMN IF NOT EXISTS first_token_at timestamptz
    """,
    "ALTER TABLE request_templates ADD COLUMN IF NOT EXISTS metadata jsonb",
    # digests: the table must not keep the names of those who asked to be forgotten
    "CREATE TABLE erasures (owner_digest text PRIMARY KEY, erased_at timestamptz NOT NULL)",
)

# the reader looks a response up under an id that its client saw before the one in requests.custom_id
INDEX = """
    CREATE INDEX {concurrently} IF NOT EXISTS ix_request_templates_custom_id ON request_templates (custom_id)
    WHERE custom_id IS NOT NULL AND file_id IS NULL
"""

DOWNGRADE = (
    "DROP INDEX ix_request_templates_custom_id",
    """
    ALTER TABLE requests
        DROP COLUMN input_tokens,
        DROP COLUMN output_tokens,
        DROP COLUMN cached_input_tokens,
        DROP COLUMN reasoning_tokens,
        DROP COLUMN first_token_at
    """,
    "ALTER TABLE request_templates DROP COLUMN metadata",
    "DROP TABLE erasures",
)

# what of it an adoption may have made
NAMES = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
    "first_token_at",
    "metadata",
    "erasures",
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
            AND coalesce(a.attname, c.relname) = ANY ('{{{names}}}')
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
END
$$
"""


def upgrade() -> None:
    """Add the index, the columns and the table."""
    build_index()
    for statement in UPGRADE:
        op.execute(statement)


def build_index() -> None:
    """Build the index, outside a transaction where that is possible.

    Comes before all else of the revision, so that a build that failed can be repeated.
    """
    # a script may be run as one transaction
    if op.get_context().as_sql or is_partitioned():
        op.execute(INDEX.format(concurrently=""))
        return
    try:
        with op.get_context().autocommit_block():
            build_concurrently()
    except AssertionError:  # in a transaction of the caller's, or behind a pooler
        op.execute(INDEX.format(concurrently=""))


def is_partitioned() -> bool:
    """Return True for the partitioned variant, whose indexes PostgreSQL builds in a transaction only.

    No release has such tables at a revision before this one: they are empty.
    """
    variant = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('request_templates')"
    return bool(op.get_bind().scalar(text(variant)))


def build_concurrently() -> None:
    """Build the index while others write: nobody queues behind the build, and it waits for every older transaction."""
    op.execute("SET lock_timeout = 0")
    op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_request_templates_custom_id")
    op.execute(INDEX.format(concurrently="CONCURRENTLY"))
    op.execute("SET lock_timeout = '500ms'")


def downgrade() -> None:
    """Drop what ``upgrade`` added, with what was written there. Erased owners' records may come back afterwards."""
    op.execute(SPARE_THEIRS.format(downgrade=";".join(DOWNGRADE), names=",".join(NAMES)))

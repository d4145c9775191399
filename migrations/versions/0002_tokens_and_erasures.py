"""Tokens, first-token time, metadata, erasures, and answers that changed their id.

Online: nullable columns without defaults are catalogue entries, and no row is rewritten. ``IF NOT EXISTS``, so that a
column that somebody made ahead of an upgrade does not stop it; ``rwriter check`` says whether it is the right one.

Revision ID: rwriter_0002
Revises: rwriter_0001
"""

from __future__ import annotations

from alembic import op

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


def upgrade() -> None:
    """Add the index, the columns and the table."""
    build_index()
    for statement in UPGRADE:
        op.execute(statement)


def build_index() -> None:
    """Build the index, outside a transaction where that is possible.

    Comes before all else of the revision, so that a build that failed can be repeated.
    """
    if op.get_context().as_sql:  # a script may be run as one transaction
        op.execute(INDEX.format(concurrently=""))
        return
    try:
        with op.get_context().autocommit_block():
            build_concurrently()
    except AssertionError:  # in a transaction of the caller's, or behind a pooler
        op.execute(INDEX.format(concurrently=""))


def build_concurrently() -> None:
    """Build the index while others write: nobody queues behind the build, and it waits for every older transaction."""
    op.execute("SET lock_timeout = 0")
    op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_request_templates_custom_id")
    op.execute(INDEX.format(concurrently="CONCURRENTLY"))
    op.execute("SET lock_timeout = '500ms'")


def downgrade() -> None:
    """Drop what ``upgrade`` added, with what was written there. Erased owners' records may come back afterwards."""
    for statement in DOWNGRADE:
        op.execute(statement)

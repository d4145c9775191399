"""Tokens, first-token time, metadata and erasures.

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

DOWNGRADE = (
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
    """Add the columns and the table."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop what ``upgrade`` added, with what was written there. Erased owners' records may come back afterwards."""
    for statement in DOWNGRADE:
        op.execute(statement)

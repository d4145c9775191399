"""The ledger: one entry a flush, chained, from which it can be shown what became of every record.

Online: a new table, which nobody writes to yet. It is rwriter's own on adopted tables, too.

Revision ID: rwriter_0003
Revises: rwriter_0002
"""

from __future__ import annotations

from alembic import op

revision = "rwriter_0003"
down_revision = "rwriter_0002"
branch_labels = None
depends_on = None

LEDGER = """
CREATE TABLE ledger (
    writer_id uuid NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    ids uuid[] NOT NULL DEFAULT '{}',
    number integer NOT NULL DEFAULT 0,
    tags bytea NOT NULL DEFAULT '',
    digest bytea NOT NULL,
    previous bytea NOT NULL,
    account jsonb,
    skipped uuid[],
    begun uuid[],
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ledger_pkey PRIMARY KEY (writer_id, seq),
    CONSTRAINT ledger_kind_check CHECK (kind IN (
        'opened', 'stored', 'skipped', 'dead', 'spooled', 'replayed', 'dropped', 'erased', 'purged', 'archived',
        'heartbeat', 'closed'
    ))
)
"""

# Ids and digests do not compress, and the entry of a hundred records is to stay in one piece.
STORAGE = (
    "ALTER TABLE ledger ALTER COLUMN ids SET STORAGE EXTERNAL, ALTER COLUMN tags SET STORAGE EXTERNAL",
    "ALTER TABLE ledger SET (toast_tuple_target = 8160)",
)


def upgrade() -> None:
    """Create the table."""
    for statement in (LEDGER, *STORAGE):
        op.execute(statement)


def downgrade() -> None:
    """Drop the table, and with it every proof."""
    op.execute("DROP TABLE ledger")

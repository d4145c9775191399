"""Tokens, first-token time, metadata, erasures, answers that changed their id, and failures found at once.

Online, in a service's own Alembic too: nullable columns without defaults are catalogue entries, no row is rewritten,
and the indexes are built beside writers. ``IF NOT EXISTS``, so that a column that somebody made ahead of an upgrade
does not stop it; ``rwriter check`` says whether it is the right one.

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

INDEXES = {
    # the reader looks a response up under an id that its client saw before the one in requests.custom_id
    "ix_request_templates_custom_id": """
        CREATE INDEX {concurrently} IF NOT EXISTS ix_request_templates_custom_id ON request_templates (custom_id)
        WHERE custom_id IS NOT NULL AND file_id IS NULL
    """,
    # an operator's first question: what failed, newest first
    "ix_requests_failed": """
        CREATE INDEX {concurrently} IF NOT EXISTS ix_requests_failed ON requests (created_at DESC, id DESC)
        WHERE created_by IS NOT NULL AND state = 'failed'
    """,
}

IS_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")

# Where no lock_timeout is set, as in a service's own Alembic. Writers queue behind a wait for a table's lock: so it is
# waited for briefly, and asked for again after a pause in which nothing is held.
LOCKS = """
DO $$
BEGIN
    IF current_setting('lock_timeout') <> '0' THEN
        RETURN;
    END IF;
    PERFORM set_config('lock_timeout', '500ms', true);
    FOR attempt IN 1..40 LOOP
        BEGIN
            LOCK TABLE requests, request_templates IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF attempt = 40 THEN
                RAISE;
            END IF;
        END;
        PERFORM pg_sleep(1);
    END LOOP;
END
$$
"""

# The role's time-outs are for requests, and not for migrations: a wait for a lock is one statement, and between two of
# them a slow client is idle in a transaction that holds the lock.
TIME_OUTS_OFF = ("SET LOCAL statement_timeout = 0", "SET LOCAL idle_in_transaction_session_timeout = 0")

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
    "DROP INDEX ix_request_templates_custom_id",
    "DROP INDEX ix_requests_failed",
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
    *INDEXES,
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
    """Add the indexes, the columns and the table."""
    # before all else: what ran before a build is committed, and a build that failed can be repeated
    build_indexes()
    for statement in (*TIME_OUTS_OFF, LOCKS, *UPGRADE):
        op.execute(statement)


def build_indexes() -> None:
    """Build the indexes beside writers where that is possible: in no transaction, and not on a partitioned table."""
    if op.get_context().as_sql or is_partitioned():  # a script may be run as one transaction
        build("")
        return
    try:
        with op.get_context().autocommit_block():
            build_beside_writers()
    except AssertionError:  # Alembic's, in a transaction of the caller's: behind a pooler, for example
        build("")


def is_partitioned() -> bool:
    """Return True for a parent of partitions, which takes no index CONCURRENTLY."""
    return bool(
        op.get_bind()
        .exec_driver_sql("SELECT to_regclass('requests')::oid IN (SELECT partrelid FROM pg_partitioned_table)")
        .scalar()
    )


def build_beside_writers() -> None:
    """Build the indexes CONCURRENTLY: each waits for every older transaction, and no writer waits for it."""
    bind = op.get_bind()
    names = ("lock_timeout", "statement_timeout")
    before = {name: bind.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}
    for name in names:
        op.execute(f"SET {name} = 0")
    for name in INDEXES:
        # only what a killed process left: to drop an index that an attempt before this one has built waits for readers
        valid = bind.scalar(IS_VALID, {"name": name})
        if valid is False:
            op.execute(f"DROP INDEX CONCURRENTLY {name}")
    build("CONCURRENTLY")
    for name, value in before.items():
        op.execute(f"SET {name} = '{value}'")


def build(concurrently: str) -> None:
    """Build the indexes."""
    for statement in INDEXES.values():
        op.execute(statement.format(concurrently=concurrently))


def downgrade() -> None:
    """Drop what ``upgrade`` added, with what was written there. Erased owners' records may come back afterwards."""
    op.execute(SPARE_THEIRS.format(downgrade=";".join(DOWNGRADE), names=",".join(NAMES)))

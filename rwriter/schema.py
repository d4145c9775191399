"""The Core tables. ``migrations/`` builds them; a test holds the two together.

Column-compatible with the tables of the *fusillade* daemon: its own extra columns, indexes and foreign keys may be
there too, nothing here depends on the exact set.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    DefaultClause,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

HEAD_REVISION: Final = "rwriter_0003"
"""The migration these tables correspond to. Kept here so that the writer's start check needs no Alembic."""

VERSION_TABLE: Final = "rwriter_alembic_version"

State: TypeAlias = Literal["processing", "claimed", "pending", "completed", "failed", "canceled"]
"""The state of a request, as in the column ``state``."""

ACTIVE_STATES: Final[tuple[State, ...]] = ("processing", "claimed", "pending")
FINISHED_STATES: Final[tuple[State, ...]] = ("completed", "failed", "canceled")
STATES: Final[tuple[State, ...]] = (*ACTIVE_STATES, *FINISHED_STATES)

REALTIME_TIER: Final = "priority"
"""The service tier of rows written by this library; the other tiers are the daemon's."""

NIL_DAEMON: Final = uuid.UUID(int=0)
"""``daemon_id`` of rows no daemon has claimed: the service itself is working on them."""

PARTITIONED_TABLES: Final = ("requests", "request_templates")
"""Tables that are partitioned by ``id`` in the variant that ``rwriter migrate --partitioned`` makes."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""``not_before`` of realtime rows in flight: no daemon claims one that its own upkeep put back to ``pending``."""

TOMBSTONE_OWNER: Final = ""
"""``created_by`` of the blanked row a deletion leaves in flight. No record can carry it: theirs is never blank."""

metadata: MetaData = MetaData(
    # PostgreSQL's own defaults, written down so that autogenerate and the migrations agree. No "ck": checks are named.
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

request_templates: Table = Table(
    "request_templates",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("file_id", Uuid),
    Column("custom_id", Text),
    Column("endpoint", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("api_key", Text, nullable=False),
    Column("body", Text, nullable=False, server_default=""),
    Column("body_byte_size", BigInteger, nullable=False, server_default=text("0")),
    Column("line_number", Integer, nullable=False, server_default=text("0")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    # none_as_null: a row without facts is one that nobody gave any
    Column("metadata", JSONB(none_as_null=True)),
)

requests: Table = Table(
    "requests",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("batch_id", Uuid),
    Column("template_id", Uuid, ForeignKey("request_templates.id", ondelete="SET NULL")),
    Column("model", Text, nullable=False),
    Column("custom_id", Text),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("retry_attempt", Integer, nullable=False, server_default=text("0")),
    Column("not_before", DateTime(timezone=True)),
    Column("daemon_id", Uuid),
    Column("claimed_at", DateTime(timezone=True)),
    Column("started_at", DateTime(timezone=True)),
    Column("completed_at", DateTime(timezone=True)),
    Column("failed_at", DateTime(timezone=True)),
    Column("canceled_at", DateTime(timezone=True)),
    Column("response_status", SmallInteger),
    Column("response_body", Text),
    Column("response_size", BigInteger, nullable=False, server_default=text("0")),
    Column("error", Text),
    Column("routed_model", Text),
    Column("service_tier", Text),
    Column("created_by", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cached_input_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("first_token_at", DateTime(timezone=True)),
    CheckConstraint(
        "state IN ('pending', 'claimed', 'processing', 'completed', 'failed', 'canceled')", name="state_check"
    ),
    CheckConstraint(
        "state <> 'pending' OR (daemon_id IS NULL AND claimed_at IS NULL AND started_at IS NULL)",
        name="pending_fields_check",
    ),
    CheckConstraint(
        "state <> 'claimed' OR (daemon_id IS NOT NULL AND claimed_at IS NOT NULL AND started_at IS NULL)",
        name="claimed_fields_check",
    ),
    CheckConstraint(
        "state <> 'processing' OR (daemon_id IS NOT NULL AND claimed_at IS NOT NULL AND started_at IS NOT NULL)",
        name="processing_fields_check",
    ),
    CheckConstraint(
        "state <> 'completed' OR (response_status IS NOT NULL AND response_body IS NOT NULL"
        " AND completed_at IS NOT NULL)",
        name="completed_fields_check",
    ),
    CheckConstraint("state <> 'failed' OR (error IS NOT NULL AND failed_at IS NOT NULL)", name="failed_fields_check"),
    CheckConstraint("state <> 'canceled' OR canceled_at IS NOT NULL", name="canceled_fields_check"),
    CheckConstraint("(batch_id IS NULL) <> (created_by IS NULL)", name="requests_attribution_xor"),
    CheckConstraint(
        "service_tier IS NULL OR service_tier IN ('auto', 'default', 'flex', 'priority', 'background')",
        name="requests_service_tier_check",
    ),
)

# A terminal insert touches the primary key and the first three below; the partial ones are for rows that are rare.

# list_requests(created_by=...), newest first, and its keyset cursor
Index(
    "ix_requests_created_by_created_at_id",
    requests.c.created_by,
    requests.c.created_at.desc(),
    requests.c.id.desc(),
    postgresql_where=requests.c.created_by.is_not(None),
)
# list_requests over all tenants (audit), newest first
Index(
    "ix_requests_created_at_id",
    requests.c.created_at.desc(),
    requests.c.id.desc(),
    postgresql_where=requests.c.created_by.is_not(None),
)
# deleting a template: without it the foreign key's SET NULL scans the whole table for every deleted row
Index("ix_requests_template_id", requests.c.template_id)
# list_requests(active_first=True) and fail_stale: only rows in flight
Index(
    "ix_requests_active",
    requests.c.created_at.desc(),
    requests.c.id.desc(),
    postgresql_where=text("created_by IS NOT NULL AND state IN ('processing', 'claimed', 'pending')"),
)
# list_requests(status="failed") over all tenants, the operator's first question: among rows that hardly ever fail
Index(
    "ix_requests_failed",
    requests.c.created_at.desc(),
    requests.c.id.desc(),
    postgresql_where=text("created_by IS NOT NULL AND state = 'failed'"),
)
# the reader looks a response up under the id its client knows, within the owner's rows
Index(
    "ix_requests_custom_id",
    requests.c.custom_id,
    postgresql_where=requests.c.custom_id.is_not(None),
)

# the reader looks a response up under an id that its client saw before that one: in few rows there is any
Index(
    "ix_request_templates_custom_id",
    request_templates.c.custom_id,
    postgresql_where=request_templates.c.custom_id.is_not(None) & request_templates.c.file_id.is_(None),
)

dead_letters: Table = Table(
    "dead_letters",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("request_id", Uuid, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("sqlstate", Text),
    Column("error", Text, nullable=False),
    # the whole CompletedRequest as MessagePack, so that it can be replayed once the cause is mended
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)
# erase(created_by) must find a tenant's dead letters too
Index("ix_dead_letters_created_by", dead_letters.c.created_by)

erasures: Table = Table(
    "erasures",
    metadata,
    # SHA-256 of the owner in hex: the table must not keep the names of those who asked to be forgotten
    Column("owner_digest", Text, primary_key=True),
    # what this owner began up to then is written no more
    Column("erased_at", DateTime(timezone=True), nullable=False),
)

ledger: Table = Table(
    "ledger",
    metadata,
    # of a lane: a sequence of entries that one task of a writer writes, each sealing the one before
    Column("writer_id", Uuid, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("ids", ARRAY(Uuid, dimensions=1), nullable=False, server_default=text("'{}'")),
    # rows written, or records that the entry is about
    Column("number", Integer, nullable=False, server_default=text("0")),
    # of each id in order, 16 bytes over the facts of its record and 16 over its bodies
    Column("tags", LargeBinary, nullable=False, server_default=text("''")),
    Column("digest", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    # a writer's own, or what was removed where that is not told by ids
    Column("account", JSONB(none_as_null=True)),
    # of the ids, those that got no row by this entry, and those whose row was there before, in flight
    Column("skipped", ARRAY(Uuid, dimensions=1)),
    Column("begun", ARRAY(Uuid, dimensions=1)),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    CheckConstraint(
        "kind IN ('opened', 'stored', 'skipped', 'dead', 'spooled', 'replayed', 'dropped', 'erased', 'purged',"
        " 'archived', 'heartbeat', 'closed')",
        name="ledger_kind_check",
    ),
)

TABLES: Final = frozenset(metadata.tables)
"""The names of rwriter's own tables. A service may add tables of its own to ``metadata``."""


def first_id(moment: datetime) -> uuid.UUID:
    """Return the id that is below every UUIDv7 of ``moment`` and later, and above every earlier one."""
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    return uuid.UUID(int=max(0, milliseconds) << 80)


def made_at(identity: uuid.UUID) -> datetime:
    """Return the moment that a UUIDv7 begins with."""
    return _EPOCH + timedelta(milliseconds=identity.int >> 80)


def _partitioned() -> MetaData:
    variant = MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.sorted_tables:
        copy = table.to_metadata(variant)
        if table.name in PARTITIONED_TABLES:
            # a foreign key between partitioned tables costs half of the server's time
            copy.constraints -= {each for each in copy.constraints if isinstance(each, ForeignKeyConstraint)}
            copy.c.id.server_default = DefaultClause(text("rwriter_new_id()"))
    return variant


partitioned_metadata: Final = _partitioned()
"""The tables of the partitioned variant, to compare a database with. Statements are made of the tables above."""

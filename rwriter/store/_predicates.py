"""Conditions and parameters that several statements share."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ARRAY,
    BindParameter,
    Column,
    ColumnElement,
    DateTime,
    Integer,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
)

from rwriter._values.texts import repair
from rwriter.records import CLIENT_CLOSED_REQUEST, Metadata
from rwriter.schema import ACTIVE_STATES, REALTIME_TIER, TOMBSTONE_OWNER, erasures, requests

AWARE: Final = DateTime(timezone=True)
GATEWAY_TIMEOUT: Final = 504

CHUNK: Final = 1_000
"""Most rows that one transaction of a removal or of ``fail_stale`` touches."""

IDS: Final[BindParameter[Any]] = bindparam("ids", type_=ARRAY(Uuid(), dimensions=1))
OWNER: Final[BindParameter[str]] = bindparam("owner", type_=Text())
SIZE: Final[BindParameter[int]] = bindparam("size", type_=Integer())


def constant(value: str) -> ColumnElement[str]:
    """Return one of this package's own words, inlined: a parameter would hide it from the planner's partial indexes."""
    return literal_column(f"'{value}'", Text())


def in_states(states: Sequence[str]) -> ColumnElement[bool]:
    """Return ``state IN (...)`` in the words of the partial indexes."""
    return in_states_of(requests.c.state, states)


def in_states_of(column: ColumnElement[str], states: Sequence[str]) -> ColumnElement[bool]:
    """Return the same of a column of another table."""
    return column.in_([constant(state) for state in states])


def among_ids(identity: Column[uuid.UUID]) -> ColumnElement[bool]:
    """Match rows whose ``identity`` is in the array parameter ``ids``."""
    return identity == func.any(IDS)


def not_erased(created_by: ColumnElement[str], started_at: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Match records whose owner was not erased since they began.

    No join, which could change the order of the records, and no look-up where nobody was ever erased.
    """
    digest = func.encode(func.sha256(func.convert_to(created_by, constant("UTF8"))), constant("hex"))
    erased_at = select(erasures.c.erased_at).where(erasures.c.owner_digest == digest).scalar_subquery()
    return case((~exists(select(erasures.c.owner_digest)), true()), else_=func.coalesce(started_at > erased_at, true()))


def owner_digest(owner: str) -> str:
    """Return what ``erasures`` keeps of an owner."""
    return hashlib.sha256(owner.encode()).hexdigest()


def json_of(metadata: Metadata) -> str:
    """Return the metadata of a record or of a filter as JSON, its texts repaired."""
    facts = {repair(name): repair(fact) if isinstance(fact, str) else fact for name, fact in metadata.items()}
    return msgspec.json.encode(facts).decode()


def visible() -> ColumnElement[bool]:
    """Match rows that a reader may see: attributed to an owner, and not the blanked remains of a deletion."""
    return and_(requests.c.created_by.is_not(None), requests.c.created_by != constant(TOMBSTONE_OWNER))


def of_this_library() -> ColumnElement[bool]:
    """Match rows of realtime requests, whoever inserted them. Every other row belongs to the daemon."""
    return and_(requests.c.service_tier == constant(REALTIME_TIER), requests.c.batch_id.is_(None))


def realtime_in_flight() -> ColumnElement[bool]:
    """Match rows that the writer may complete although it did not insert them: realtime, in flight, in no batch.

    In whatever state: a daemon's upkeep may have put one back to ``pending``.
    """
    return and_(in_states(ACTIVE_STATES), of_this_library())


def completion_may_come() -> ColumnElement[bool]:
    """Match rows whose completion may still arrive and bring their data back after a deletion.

    These are rows in flight, and rows that were failed while their application may have gone on: cancelled and
    disconnected ones are 499, abandoned ones 504.
    """
    statuses: list[ColumnElement[int]] = [
        literal_column(str(status)) for status in (CLIENT_CLOSED_REQUEST, GATEWAY_TIMEOUT)
    ]
    given_up = and_(
        requests.c.state == constant("failed"),
        requests.c.service_tier == constant(REALTIME_TIER),
        requests.c.response_status.in_(statuses),
    )
    return or_(in_states(ACTIVE_STATES), given_up)
